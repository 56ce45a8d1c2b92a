"""Validates a folder of recordings before it is encoded and reports every issue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.text import max_frames_for
from engine.types import FRAME_MILLISECONDS

from .audio import SUFFIXES, Audio, read_audio
from .errors import RecordingsError
from .loudness import Loudness
from .manifest import Manifest, Recording
from .validation_issue import ValidationIssue

MAX_CLIP_SECONDS = 30.0
MIN_CLIP_SECONDS = 0.5

_MIN_RATE, _DULL_RATE = 8_000, 22_050  # Hz: an error below the first, a warning (dull sound) below the second
_SILENT_DEVIATION = 1e-4  # standard deviation relative to full scale, -80 dB: below it there is no speech
_QUIET_DB = -45.0  # dBFS, speech level
_CLIPPED_SHARE = 1e-3  # share of samples at the peak; unclipped speech has at most one in ten thousand
_MAX_EDGE_SILENCE = 1.0  # seconds before or after speech: the model learns to reproduce longer ones
_MIN_DURATION_SHARE = 0.22  # of a slow reader's duration: 30 letters a second
_MAX_LISTED = 5

ProgressCallback = Callable[[int, int], None]  # (clips done, total)


@dataclass(frozen=True)
class Clip:
    """A recording that passed validation. sha256: of its file."""

    recording: Recording
    seconds: float
    sha256: str


@dataclass(frozen=True)
class ValidationReport:
    """clips: the usable recordings, in the manifest's order. issues: grouped by recording, in the same order."""

    clips: tuple[Clip, ...]
    issues: tuple[ValidationIssue, ...]
    speakers: dict[int, str]

    @property
    def errors(self) -> int:
        return sum(issue.is_error for issue in self.issues)

    @property
    def warnings(self) -> int:
        return len(self.issues) - self.errors

    @property
    def seconds(self) -> float:
        return sum(clip.seconds for clip in self.clips)

    def summary(self) -> list[str]:
        """Human-readable lines: clips and duration, in total and per speaker."""
        found = f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')}"
        lines = [f"{_count(len(self.clips), 'clip')} can be used, {_duration(self.seconds)}; {found}"]
        for number, name in sorted(self.speakers.items()):
            clips = [clip for clip in self.clips if clip.recording.speaker == number]
            label = "" if name == str(number) else f" ({name})"
            length = _duration(sum(clip.seconds for clip in clips))
            lines.append(f"  speaker {number}{label}: {_count(len(clips), 'clip')}, {length}")
        return lines


def validate_dataset(
    manifest: Manifest,
    max_seconds: float = MAX_CLIP_SECONDS,
    min_seconds: float = MIN_CLIP_SECONDS,
    on_progress: ProgressCallback = lambda done, total: None,
) -> ValidationReport:
    """Check every line and decode every recording of a manifest.

    max_seconds, min_seconds: allowed duration of a clip. on_progress: called after each clip.
    """
    issues = list(manifest.issues)
    clips: list[Clip] = []
    first_by_hash: dict[str, str] = {}  # SHA-256 -> first clip with that content
    first_by_name: dict[str, str] = {}  # clip name -> location of its first use
    total = len(manifest.recordings)
    for done, recording in enumerate(manifest.recordings, start=1):
        where = _location(recording)
        found = [ValidationIssue(where, message, is_error) for message, is_error in _transcript_issues(recording.text)]
        if (other := first_by_name.setdefault(recording.name, recording.where)) != recording.where:
            found.append(ValidationIssue(where, f"has the same name as {other}: give each clip a unique name"))
        try:
            audio = _read_recording(recording.path, manifest.folder)
        except RecordingsError as error:
            found.append(ValidationIssue(where, str(error)))
        else:
            found += _audio_issues(recording, audio, max_seconds, min_seconds)
            if (other := first_by_hash.setdefault(audio.sha256, recording.name)) != recording.name:
                found.append(ValidationIssue(where, f"is the same recording as {other}", is_error=False))
            if not any(issue.is_error for issue in found):
                clips.append(Clip(recording, audio.seconds, audio.sha256))
        issues += found
        on_progress(done, total)
    issues += _unlisted_files(manifest)
    return ValidationReport(tuple(clips), tuple(issues), dict(manifest.speakers))


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, with symbolic links resolved, is inside the folder."""
    return path.resolve().is_relative_to(folder.resolve())


def _read_recording(path: Path, folder: Path) -> Audio:
    if not is_inside(path, folder):
        raise RecordingsError(f"{path} is outside the folder: copy the recording into it")
    if not path.is_file():
        raise RecordingsError(f"the file {path} does not exist")
    try:
        return read_audio(path)
    except OSError as error:
        raise RecordingsError(f"the file cannot be read: {error.strerror}") from error


def _transcript_issues(text: str) -> list[tuple[str, bool]]:
    if not _has_words(text):
        return [("has no transcript: add one", True)]
    found = []
    if "\ufffd" in text:
        found.append(("its transcript contains \ufffd (a lost character): correct it", True))
    elif _is_mojibake(text):
        found.append((f"its transcript looks like UTF-8 decoded with another encoding: {text[:40]!r}", False))
    return found


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _is_mojibake(text: str) -> bool:
    """Whether the text is UTF-8 that was decoded as cp1252: hardly any other text survives the reverse conversion."""
    if text.isascii():
        return False
    try:
        return text.encode("cp1252").decode("utf-8") != text
    except UnicodeError:
        return False


def _audio_issues(recording: Recording, audio: Audio, max_seconds: float, min_seconds: float) -> list[ValidationIssue]:
    """Issues found in the audio signal."""
    where = _location(recording)
    if audio.samples.std() < _SILENT_DEVIATION:
        return [ValidationIssue(where, "is silent")]
    found = []
    loudness = Loudness.from_samples(audio.samples)
    if audio.sample_rate < _MIN_RATE:
        found.append(
            ValidationIssue(where, f"its sample rate is {audio.sample_rate} Hz; at least {_MIN_RATE} Hz is required")
        )
    elif audio.sample_rate < _DULL_RATE:
        message = f"its sample rate is {audio.sample_rate} Hz; below {_DULL_RATE} Hz the voice sounds dull"
        found.append(ValidationIssue(where, message, is_error=False))
    if audio.seconds < min_seconds:
        found.append(ValidationIssue(where, f"lasts {audio.seconds:.2f} s; at least {min_seconds:g} s are required"))
    elif audio.seconds > max_seconds:
        message = (
            f"lasts {audio.seconds:.1f} s; at most {max_seconds:g} s are allowed: `csm-serve cut` splits it at pauses"
        )
        found.append(ValidationIssue(where, message))
    else:
        found += [
            ValidationIssue(where, message, is_error=False)
            for message in _audio_warnings(recording.text, audio, loudness)
        ]
    return found


def _audio_warnings(text: str, audio: Audio, loudness: Loudness) -> list[str]:
    found = []
    if audio.peak_share > _CLIPPED_SHARE:
        found.append(
            f"is clipped: {audio.peak_share:.1%} of its samples are at the peak; record it again with less gain"
        )
    if loudness.speech_level < _QUIET_DB:
        found.append(f"is very quiet, {loudness.speech_level:.0f} dB: amplify it")
    for silence, place in ((loudness.leading_silence, "begins"), (loudness.trailing_silence, "ends")):
        if silence > _MAX_EDGE_SILENCE:
            found.append(f"{place} with {silence:.1f} s of silence: trim it")
    if not _has_words(text):
        return found
    # The engine ends speech at this bound, so a longer clip is useless for training.
    slow_seconds = max_frames_for(text) * FRAME_MILLISECONDS / 1000
    speech_seconds = max(audio.seconds - loudness.leading_silence - loudness.trailing_silence, 0.0)
    if audio.seconds > slow_seconds:
        found.append(f"lasts {audio.seconds:.1f} s for {_count(len(text), 'character')}: are words missing?")
    elif speech_seconds < _MIN_DURATION_SHARE * (slow_seconds - max_frames_for("") * FRAME_MILLISECONDS / 1000):
        found.append(f"has {len(text)} characters in {speech_seconds:.1f} s: is this the transcript of another clip?")
    return found


def _unlisted_files(manifest: Manifest) -> list[ValidationIssue]:
    """One warning for all recordings in the folder that the manifest does not list."""
    listed = {recording.path.resolve() for recording in manifest.recordings}
    inside = [recording.path for recording in manifest.recordings if is_inside(recording.path, manifest.folder)]
    folders = {manifest.folder, *(path.parent for path in inside)}
    candidates = [path for folder in sorted(folders) if folder.is_dir() for path in sorted(folder.iterdir())]
    missing = [
        path.relative_to(manifest.folder).as_posix()
        for path in candidates
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.resolve() not in listed
    ]
    if not missing or manifest.issues:  # an unreadable line may list it
        return []
    names = ", ".join(missing[:_MAX_LISTED]) + (" …" if len(missing) > _MAX_LISTED else "")
    return [
        ValidationIssue(manifest.source, f"does not list {_count(len(missing), 'recording')}: {names}", is_error=False)
    ]


def _location(recording: Recording) -> str:
    """The clip's name, then the manifest line that lists it."""
    return recording.name if recording.name == recording.where else f"{recording.name} ({recording.where})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
