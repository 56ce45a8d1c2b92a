"""Codes: what Mimi makes of every clip, made once and kept, with an index that says which recording each is of.

    OUT/index.json             codec, speakers, and of each clip its name, words, speaker and codes
    OUT/codes/KEY.safetensors  `codes`, (frames, codebooks); KEY names the recording's content and the codec

A file of codes appears whole or not at all and never changes, and the index comes last. So a run that was killed
goes on where it stopped, and one after a change makes only the codes of recordings that are new.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engine import Encoder

from .audio import Audio, read_audio
from .dataset_validation import Clip
from .errors import CodesError, RecordingsError
from .example import Example

_FORMAT = 1
_INDEX = "index.json"
_FOLDER = "codes"
_OURS = re.compile(r"(index\.json|[0-9a-f]{32}\.safetensors)(\.[0-9]+\.tmp)?")

Told = Callable[[int, int, float], None]  # (clips done, of so many, seconds of sound in those that were encoded)


@dataclass(frozen=True)
class Entry:
    """A clip in the index. recording: sha256 of its file. key: names its file of codes."""

    name: str
    text: str
    speaker: int
    seconds: float
    frames: int
    recording: str
    key: str


@dataclass(frozen=True)
class Prepared:
    """made: clips that were encoded now. kept: clips that had been before. retold: those of them with other words.

    removed: clips of the run before that are no more. seconds: of all that are there now.
    """

    made: int
    kept: int
    retold: int
    removed: int
    seconds: float


def prepare_codes(
    clips: Iterable[Clip],
    speakers: Mapping[int, str],
    out: Path,
    encoder: Encoder,
    told: Told = lambda done, total, seconds: None,
) -> Prepared:
    """Bring a folder of codes up to date with its recordings. told: is called after each clip.

    Raises CodesError where `out` holds something else, RecordingsError where a recording has changed for the worse
    since it was checked, OSError.
    """
    clips = list(clips)
    if out.exists() and (not out.is_dir() or not all(map(_is_ours, out.iterdir()))):
        raise CodesError(f"{out}: holds something else than prepared codes: name a new folder")
    before = {entry.name: entry for entry in _entries(_read_index(out))} if (out / _INDEX).exists() else {}
    folder = out / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    made = 0
    encoded_seconds = 0.0
    for done, clip in enumerate(clips, start=1):
        key = _key(clip.sha256, encoder)
        frames = _frames_in(folder / f"{key}.safetensors", encoder.codebooks)
        if frames is None:
            audio = _same_audio(clip)
            frames = _write_codes(folder / f"{key}.safetensors", encoder.encode(audio.samples), encoder)
            made += 1
            encoded_seconds += audio.seconds
        entries.append(_entry(clip, frames, key))
        told(done, len(clips), encoded_seconds)
    index = {
        "format": _FORMAT,
        "codec": encoder.fingerprint,
        "codebooks": encoder.codebooks,
        "speakers": {str(number): name for number, name in sorted(speakers.items())},
        "clips": [asdict(entry) for entry in entries],
    }
    _replace(out / _INDEX, json.dumps(index, ensure_ascii=False, indent=1).encode())
    _sweep(out, {_INDEX, _FOLDER})
    _sweep(folder, {f"{entry.key}.safetensors" for entry in entries})
    retold = sum(entry.name in before and before[entry.name].text != entry.text for entry in entries)
    removed = len(before.keys() - {entry.name for entry in entries})
    return Prepared(made, len(clips) - made, retold, removed, sum(entry.seconds for entry in entries))


def read_codes(directory: Path) -> list[Example]:
    """Every clip of a folder that `prepare_codes` made, in the order of its manifest.

    Raises CodesError, which names the file and what to do.
    """
    index = _read_index(directory)
    return [_example(directory / _FOLDER / f"{entry.key}.safetensors", entry) for entry in _entries(index)]


def read_codec(directory: Path) -> str:
    """The fingerprint of the codec that a folder's codes are of (Encoder.fingerprint). Raises CodesError."""
    return str(_read_index(directory)["codec"])


# ---- the index


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / _INDEX
    again = "make it with `csm-serve prepare RECORDINGS OUT`"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CodesError(f"{path}: is missing; {again}") from None
    except (OSError, ValueError) as error:
        raise CodesError(f"{path}: cannot be read ({error}); remove it and {again}") from None
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise CodesError(f"{path}: is no index of prepared codes, or one of another version; remove it and {again}")
    return index


def _entries(index: dict[str, Any]) -> list[Entry]:
    try:
        return [Entry(**entry) for entry in index["clips"]]
    except (KeyError, TypeError) as error:
        raise CodesError(f"{_INDEX}: a clip in it is damaged ({error}); remove the file and prepare again") from None


def _entry(clip: Clip, frames: int, key: str) -> Entry:
    recording = clip.recording
    return Entry(
        name=recording.name,
        text=recording.text,
        speaker=recording.speaker,
        seconds=round(clip.seconds, 3),
        frames=frames,
        recording=clip.sha256,
        key=key,
    )


# ---- files of codes


def _key(recording: str, encoder: Encoder) -> str:
    return hashlib.sha256(f"{_FORMAT}\0{recording}\0{encoder.fingerprint}".encode()).hexdigest()[:32]


def _same_audio(clip: Clip) -> Audio:
    audio = read_audio(clip.recording.path)
    if audio.sha256 != clip.sha256:
        raise RecordingsError(f"{clip.recording.path}: has changed since it was checked; start again")
    return audio


def _frames_in(path: Path, codebooks: int) -> int | None:
    """How many frames a file of codes has; None if there is none, or none that is whole."""
    try:
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call]
            frames, books = file.get_slice("codes").get_shape()
    except (FileNotFoundError, SafetensorError, ValueError):
        return None
    return int(frames) if books == codebooks else None


def _write_codes(path: Path, codes: npt.NDArray[np.int64], encoder: Encoder) -> int:
    small = codes.astype(np.int16 if encoder.codebook_size <= 1 << 15 else np.int32)
    _replace(path, save({"codes": np.ascontiguousarray(small)}))
    return len(codes)


def _example(path: Path, entry: Entry) -> Example:
    try:
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call]
            codes = file.get_tensor("codes").astype(np.int64)
    except (OSError, SafetensorError) as error:
        raise CodesError(f"{path}: cannot be read ({error}); run `csm-serve prepare` again, which mends it") from None
    if len(codes) != entry.frames:
        raise CodesError(f"{path}: has {len(codes)} frames where the index has {entry.frames}; prepare again")
    return Example(entry.name, entry.text, entry.speaker, codes)


def _replace(path: Path, data: bytes) -> None:
    """Write a file from one moment to the next, on the disk and not just on its way there."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    return path.name == _FOLDER or _OURS.fullmatch(path.name) is not None


def _sweep(folder: Path, names: set[str]) -> None:
    """Remove codes that no clip has any more, and what a killed run left behind."""
    for path in folder.iterdir():
        if path.name not in names and _is_ours(path):
            path.unlink(missing_ok=True)
