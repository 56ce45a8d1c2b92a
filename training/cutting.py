"""Splits long recordings at pauses into clip-length pieces; their transcripts are left to the user."""

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
from .dataset_validation import MAX_CLIP_SECONDS, is_inside
from .errors import RecordingsError
from .loudness import Loudness
from .manifest import Manifest, Recording
from .validation_issue import ValidationIssue

MIN_PIECE_SECONDS = 1.0
_PAUSE_SECONDS = (0.4, 0.2, 0.12)  # end of a sentence, end of a clause, breath
_COLUMNS = ("file", "text", "speaker", "from", "start", "end", "whole_text")

ProgressCallback = Callable[[int, int], None]  # (recordings done, total)


@dataclass(frozen=True)
class CutResult:
    """pieces: number of recordings written. untranscribed: how many of them have no transcript yet."""

    pieces: int
    untranscribed: int
    issues: tuple[ValidationIssue, ...]


def cut_points(samples: Samples, max_seconds: float) -> list[float]:
    """Times in seconds at which to cut a recording so that no piece exceeds `max_seconds`: the middles of pauses.

    Greedy: each piece is as long as possible, but a long pause is preferred to a later short one. Raises
    RecordingsError if speech continues for longer than that without a pause.
    """
    if max_seconds < 2 * MIN_PIECE_SECONDS:
        raise RecordingsError(
            f"the maximum piece length is {max_seconds:g} s; it must be at least {2 * MIN_PIECE_SECONDS:g} s"
        )
    loudness = Loudness.from_samples(samples)
    end = samples.size / SAMPLE_RATE
    start = 0.0
    cuts: list[float] = []
    while end - start > max_seconds:
        latest = min(start + max_seconds, end - MIN_PIECE_SECONDS)
        cut = _find_cut(loudness, start + max_seconds / 2, latest)
        if cut is None:
            cut = _find_cut(loudness, start + MIN_PIECE_SECONDS, latest)
        if cut is None:
            raise RecordingsError(
                f"has no pause from {start:.1f} to {latest:.1f} s: cut it there by hand, or allow longer pieces"
            )
        cuts.append(cut)
        start = cut
    return cuts


def cut_recordings(
    manifest: Manifest,
    target: Path,
    max_seconds: float = MAX_CLIP_SECONDS,
    on_progress: ProgressCallback = lambda done, total: None,
) -> CutResult:
    """Copy all recordings to a new folder, long ones in pieces, with a metadata.csv for the transcripts.

    A recording that is short enough keeps its transcript. The transcript of a long one is put beside its first piece in
    the column `whole_text`, for the user to divide; the pieces' `text` is empty.
    target: must not exist yet, or be empty; it is created atomically. Raises RecordingsError, OSError.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RecordingsError(f"{target}: already exists and may hold transcripts: name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        rows: list[dict[str, str]] = []
        issues = list(manifest.issues)
        stems = _UniqueStems()
        for done, recording in enumerate(manifest.recordings, start=1):
            try:
                rows += _cut_recording(recording, manifest, staging, stems, max_seconds)
            except RecordingsError as error:
                issues.append(ValidationIssue(recording.name, str(error)))
            except OSError as error:
                issues.append(ValidationIssue(recording.name, f"the file cannot be read: {error.strerror}"))
            on_progress(done, len(manifest.recordings))
        if not rows:
            raise RecordingsError(
                f"nothing in {manifest.folder} can be cut: "
                + "; ".join(f"{each.location} {each.message}" for each in issues)
            )
        with (staging / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        staging.chmod(0o755)  # mkdtemp creates it with 0700
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return CutResult(len(rows), sum(not row["text"] for row in rows), tuple(issues))


def _find_cut(loudness: Loudness, earliest: float, latest: float) -> float | None:
    """Middle of the last pause in the given range, of the longest kind of pause found there; None without any."""
    for min_seconds in _PAUSE_SECONDS:
        middles = [(start + end) / 2 for start, end in loudness.pauses(min_seconds)]
        candidates = [middle for middle in middles if earliest <= middle <= latest]
        if candidates:
            return candidates[-1]
    return None


def _cut_recording(
    recording: Recording, manifest: Manifest, staging: Path, stems: _UniqueStems, max_seconds: float
) -> list[dict[str, str]]:
    """Write one recording's pieces and return their metadata rows."""
    if not is_inside(recording.path, manifest.folder):
        raise RecordingsError(f"{recording.path} is outside the folder: copy the recording into it")
    audio = read_audio(recording.path)
    stem = stems.assign(recording.name)
    speaker = manifest.speakers[recording.speaker]
    if audio.seconds <= max_seconds:
        _write_wav(staging / f"{stem}.wav", audio.samples)
        return [{"file": f"{stem}.wav", "text": recording.text, "speaker": speaker, "from": recording.name}]
    bounds = [0.0, *cut_points(audio.samples, max_seconds), audio.seconds]
    rows = []
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        file = f"{stem}-{number:03}.wav"
        _write_wav(staging / file, audio.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])
        row = {"file": file, "text": "", "speaker": speaker, "from": recording.name}
        row |= {"start": f"{start:.2f}", "end": f"{end:.2f}", "whole_text": recording.text if number == 1 else ""}
        rows.append(row)
    return rows


class _UniqueStems:
    """Assigns each recording a unique, file-system-safe stem."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def assign(self, name: str) -> str:
        stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(name)[0]).strip("._") or "recording"
        unique = stem
        number = 2
        while unique.lower() in self._taken:
            unique, number = f"{stem}_{number}", number + 1
        self._taken.add(unique.lower())
        return unique


def _write_wav(path: Path, samples: Samples) -> None:
    """Write 16-bit PCM at 24 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, samples.size, "NONE", "not compressed"))
        file.writeframes(np.rint(np.clip(samples, -1, 32767 / 32768) * 32768).astype("<i2").tobytes())
