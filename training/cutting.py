"""Long recordings cut at their pauses, so that each piece fits a clip; who says what in them is left to the user."""

from __future__ import annotations

import csv
import os
import re
import shutil
import tempfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from engine import SAMPLE_RATE

from .audio import Samples, read_audio
from .dataset_validation import LONGEST_SECONDS, is_inside
from .errors import RecordingsError
from .loudness import Loudness
from .manifest import Manifest, Recording
from .validation_issue import ValidationIssue

LEAST_SECONDS = 1.0  # of a piece
_PAUSES = (0.4, 0.2, 0.12)  # seconds: the end of a sentence, of a clause, a breath
_COLUMNS = ("file", "text", "speaker", "from", "start", "end", "whole_text")

Told = Callable[[int, int], None]  # (recordings done, of so many)


@dataclass(frozen=True)
class Cutting:
    """pieces: how many recordings there are now. unwritten: how many of them have no transcript yet."""

    pieces: int
    unwritten: int
    problems: tuple[ValidationIssue, ...]


def cut_points(samples: Samples, longest_seconds: float) -> list[float]:
    """Where to cut a recording, in seconds, so that no piece is longer: in the middle of pauses.

    Each piece is as long as it can be without losing a long pause for a short one. Raises RecordingsError where
    somebody speaks on for longer than that without a pause.
    """
    if longest_seconds < 2 * LEAST_SECONDS:
        raise RecordingsError(f"a piece may last {longest_seconds:g} s; it needs at least {2 * LEAST_SECONDS:g}")
    loudness = Loudness.of(samples)
    end = samples.size / SAMPLE_RATE
    start = 0.0
    cuts: list[float] = []
    while end - start > longest_seconds:
        latest = min(start + longest_seconds, end - LEAST_SECONDS)
        cut = _best_cut(loudness, start + longest_seconds / 2, latest)
        if cut is None:
            cut = _best_cut(loudness, start + LEAST_SECONDS, latest)
        if cut is None:
            raise RecordingsError(
                f"has no pause from {start:.1f} to {latest:.1f} s: cut it by hand there, or allow longer pieces"
            )
        cuts.append(cut)
        start = cut
    return cuts


def cut_recordings(
    manifest: Manifest,
    target: Path,
    longest_seconds: float = LONGEST_SECONDS,
    told: Told = lambda done, total: None,
) -> Cutting:
    """Write every recording to a new folder, long ones in pieces, with a metadata.csv to write the transcripts into.

    A recording that is short enough keeps its transcript. That of a long one stands beside its first piece, in the
    column `whole_text`, to be divided among the pieces; its column `text` is empty.
    target: must not be there yet, or be empty. It is there once it is whole. Raises RecordingsError, OSError.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RecordingsError(f"{target}: is there already, with transcripts maybe: name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        rows: list[dict[str, str]] = []
        problems = list(manifest.problems)
        names = _FileNames()
        for done, recording in enumerate(manifest.recordings, start=1):
            try:
                rows += _cut(recording, manifest, draft, names, longest_seconds)
            except RecordingsError as error:
                problems.append(ValidationIssue(recording.name, str(error)))
            except OSError as error:
                problems.append(ValidationIssue(recording.name, f"it cannot be read: {error.strerror}"))
            told(done, len(manifest.recordings))
        if not rows:
            raise RecordingsError(
                f"nothing in {manifest.folder} can be cut: "
                + "; ".join(f"{each.where} {each.what}" for each in problems)
            )
        with (draft / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        draft.chmod(0o755)  # mkdtemp's is for the user alone
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Cutting(len(rows), sum(not row["text"] for row in rows), tuple(problems))


def _best_cut(loudness: Loudness, earliest: float, latest: float) -> float | None:
    """The middle of the last pause of the longest kind between two moments; None if there is none."""
    for shortest in _PAUSES:
        middles = [(start + end) / 2 for start, end in loudness.pauses(shortest)]
        fitting = [middle for middle in middles if earliest <= middle <= latest]
        if fitting:
            return fitting[-1]
    return None


def _cut(
    recording: Recording, manifest: Manifest, draft: Path, names: _FileNames, longest_seconds: float
) -> list[dict[str, str]]:
    """The rows of one recording's pieces, which are written."""
    if not is_inside(recording.path, manifest.folder):
        raise RecordingsError(f"{recording.path} leads out of the folder: copy the recording into it")
    audio = read_audio(recording.path)
    stem = names.take(recording.name)
    speaker = manifest.speakers[recording.speaker]
    if audio.seconds <= longest_seconds:
        _write(draft / f"{stem}.wav", audio.samples)
        return [{"file": f"{stem}.wav", "text": recording.text, "speaker": speaker, "from": recording.name}]
    bounds = [0.0, *cut_points(audio.samples, longest_seconds), audio.seconds]
    rows = []
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        file = f"{stem}-{number:03}.wav"
        _write(draft / file, audio.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])
        row = {"file": file, "text": "", "speaker": speaker, "from": recording.name}
        row |= {"start": f"{start:.2f}", "end": f"{end:.2f}", "whole_text": recording.text if number == 1 else ""}
        rows.append(row)
    return rows


class _FileNames:
    """A file name without a suffix for each recording, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(name)[0]).strip("._") or "recording"
        free = stem
        number = 2
        while free.lower() in self._taken:
            free, number = f"{stem}_{number}", number + 1
        self._taken.add(free.lower())
        return free


def _write(path: Path, samples: Samples) -> None:
    """16 bits at 24 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, samples.size, "NONE", "not compressed"))
        file.writeframes(np.rint(np.clip(samples, -1, 32767 / 32768) * 32768).astype("<i2").tobytes())
