"""Caches the Mimi codes of every clip on disk, with an index of the clips.

OUT/index.json             codec, speakers, and each clip's name, text, speaker and key
OUT/codes/KEY.safetensors  `codes`, (frames, codebooks); KEY is a hash of the recording's content and the codec

Code files are written atomically and never change, and the index is written last. So an interrupted run resumes,
and a later run encodes only new recordings.
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
_OWN_FILES = re.compile(r"(index\.json|[0-9a-f]{32}\.safetensors)(\.[0-9]+\.tmp)?")

ProgressCallback = Callable[[int, int, float], None]  # (clips done, total clips, seconds of audio encoded)


@dataclass(frozen=True)
class Entry:
    """A clip in the index. recording: SHA-256 of its file. key: names its code file."""

    name: str
    text: str
    speaker: int
    seconds: float
    frames: int
    recording: str
    key: str


@dataclass(frozen=True)
class PrepareResult:
    """Counts of one `prepare_codes` run.

    encoded: clips encoded in this run. reused: clips with cached codes. retranscribed: clips whose text has changed.
    removed: clips of the previous index that no longer exist. seconds: total duration of all clips.
    """

    encoded: int
    reused: int
    retranscribed: int
    removed: int
    seconds: float


def prepare_codes(
    clips: Iterable[Clip],
    speakers: Mapping[int, str],
    out: Path,
    encoder: Encoder,
    on_progress: ProgressCallback = lambda done, total, seconds: None,
) -> PrepareResult:
    """Bring a folder of codes up to date with its recordings. on_progress: called after each clip.

    Raises CodesError if `out` contains other files, RecordingsError if a recording has changed since validation, and
    OSError.
    """
    clips = list(clips)
    if out.exists() and (not out.is_dir() or not all(map(_is_own_file, out.iterdir()))):
        raise CodesError(f"{out}: contains files other than prepared codes: name a new folder")
    before = {entry.name: entry for entry in _index_entries(_read_index(out))} if (out / _INDEX).exists() else {}
    folder = out / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    encoded = 0
    encoded_seconds = 0.0
    for done, clip in enumerate(clips, start=1):
        key = _key(clip.sha256, encoder)
        frames = _stored_frames(folder / f"{key}.safetensors", encoder.codebooks)
        if frames is None:
            audio = _read_unchanged(clip)
            frames = _write_codes(folder / f"{key}.safetensors", encoder.encode(audio.samples), encoder)
            encoded += 1
            encoded_seconds += audio.seconds
        entries.append(_entry(clip, frames, key))
        on_progress(done, len(clips), encoded_seconds)
    index = {
        "format": _FORMAT,
        "codec": encoder.fingerprint,
        "codebooks": encoder.codebooks,
        "speakers": {str(number): name for number, name in sorted(speakers.items())},
        "clips": [asdict(entry) for entry in entries],
    }
    _write_atomically(out / _INDEX, json.dumps(index, ensure_ascii=False, indent=1).encode())
    _remove_stale(out, {_INDEX, _FOLDER})
    _remove_stale(folder, {f"{entry.key}.safetensors" for entry in entries})
    retranscribed = sum(entry.name in before and before[entry.name].text != entry.text for entry in entries)
    removed = len(before.keys() - {entry.name for entry in entries})
    return PrepareResult(encoded, len(clips) - encoded, retranscribed, removed, sum(entry.seconds for entry in entries))


def read_codes(directory: Path) -> list[Example]:
    """Read every clip of a folder made by `prepare_codes`, in the manifest's order.

    Raises CodesError, naming the file and what to do.
    """
    index = _read_index(directory)
    return [_example(directory / _FOLDER / f"{entry.key}.safetensors", entry) for entry in _index_entries(index)]


def read_codec(directory: Path) -> str:
    """Fingerprint of the codec that made a folder's codes (Encoder.fingerprint). Raises CodesError."""
    return str(_read_index(directory)["codec"])


# ---- the index


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / _INDEX
    hint = "create it with `csm-serve prepare RECORDINGS OUT`"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CodesError(f"{path}: is missing; {hint}") from None
    except (OSError, ValueError) as error:
        raise CodesError(f"{path}: cannot be read ({error}); remove it and {hint}") from None
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise CodesError(f"{path}: is not an index of prepared codes, or has another version; remove it and {hint}")
    return index


def _index_entries(index: dict[str, Any]) -> list[Entry]:
    try:
        return [Entry(**entry) for entry in index["clips"]]
    except (KeyError, TypeError) as error:
        raise CodesError(
            f"{_INDEX}: a clip entry is damaged ({error}); remove the file and run `csm-serve prepare` again"
        ) from None


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


def _read_unchanged(clip: Clip) -> Audio:
    audio = read_audio(clip.recording.path)
    if audio.sha256 != clip.sha256:
        raise RecordingsError(f"{clip.recording.path}: has changed since validation; run the command again")
    return audio


def _stored_frames(path: Path, codebooks: int) -> int | None:
    """Number of frames in a code file; None if it is missing, damaged or has another number of codebooks."""
    try:
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call]
            frames, books = file.get_slice("codes").get_shape()
    except (FileNotFoundError, SafetensorError, ValueError):
        return None
    return int(frames) if books == codebooks else None


def _write_codes(path: Path, codes: npt.NDArray[np.int64], encoder: Encoder) -> int:
    compact = codes.astype(np.int16 if encoder.codebook_size <= 1 << 15 else np.int32)
    _write_atomically(path, save({"codes": np.ascontiguousarray(compact)}))
    return len(codes)


def _example(path: Path, entry: Entry) -> Example:
    try:
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call]
            codes = file.get_tensor("codes").astype(np.int64)
    except (OSError, SafetensorError) as error:
        raise CodesError(
            f"{path}: cannot be read ({error}); run `csm-serve prepare` again to encode the clip anew"
        ) from None
    if len(codes) != entry.frames:
        raise CodesError(
            f"{path}: has {len(codes)} frames, but the index says {entry.frames}; run `csm-serve prepare` again"
        )
    return Example(entry.name, entry.text, entry.speaker, codes)


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file, fsync it and rename it to `path`."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_own_file(path: Path) -> bool:
    return path.name == _FOLDER or _OWN_FILES.fullmatch(path.name) is not None


def _remove_stale(folder: Path, names: set[str]) -> None:
    """Remove unreferenced code files and temporary files of interrupted runs."""
    for path in folder.iterdir():
        if path.name not in names and _is_own_file(path):
            path.unlink(missing_ok=True)
