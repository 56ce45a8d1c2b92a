"""Everything that is wrong with a folder of recordings, found before anything is made of them."""

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

LONGEST_SECONDS = 30.0
SHORTEST_SECONDS = 0.5

_LOWEST_RATE, _LOW_RATE = 8_000, 22_050  # Hz: below the first it is refused, below the second it sounds dull
_SILENCE = 1e-4  # of full scale: a deviation below it, -80 dB, is no voice
_QUIET = -45.0  # dB of full scale, of speech
_CLIPPED = 1e-3  # share of samples at the very top; unharmed speech has one in ten thousand there or fewer
_LONG_SILENCE = 1.0  # seconds before or behind the words: more of it is learnt as a habit
_FASTEST = 0.22  # of what a slow reader takes: 30 letters a second
_FEW_NAMES = 5

Told = Callable[[int, int], None]  # (clips done, of so many)


@dataclass(frozen=True)
class Clip:
    """A recording that can be taught from. sha256: of its file."""

    recording: Recording
    seconds: float
    sha256: str


@dataclass(frozen=True)
class Report:
    """clips: what can be taught from, in the manifest's order. problems: by file, in that order too."""

    clips: tuple[Clip, ...]
    problems: tuple[ValidationIssue, ...]
    speakers: dict[int, str]

    @property
    def errors(self) -> int:
        return sum(problem.is_error for problem in self.problems)

    @property
    def warnings(self) -> int:
        return len(self.problems) - self.errors

    @property
    def seconds(self) -> float:
        return sum(clip.seconds for clip in self.clips)

    def summary(self) -> list[str]:
        """Lines for people: clips and minutes in all, and of each speaker."""
        found = f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')}"
        lines = [f"{_count(len(self.clips), 'clip')} can be used, {_duration(self.seconds)}; {found}"]
        for number, name in sorted(self.speakers.items()):
            own = [clip for clip in self.clips if clip.recording.speaker == number]
            called = "" if name == str(number) else f" ({name})"
            length = _duration(sum(clip.seconds for clip in own))
            lines.append(f"  speaker {number}{called}: {_count(len(own), 'clip')}, {length}")
        return lines


def check(
    manifest: Manifest,
    longest_seconds: float = LONGEST_SECONDS,
    shortest_seconds: float = SHORTEST_SECONDS,
    told: Told = lambda done, total: None,
) -> Report:
    """Look at every line and listen to every recording of a manifest.

    longest_seconds, shortest_seconds: what a clip may last. told: is called after each clip.
    """
    problems = list(manifest.problems)
    clips: list[Clip] = []
    heard: dict[str, str] = {}  # a recording's content -> the first clip that has it
    named: dict[str, str] = {}  # a clip's name -> the line that has it first
    total = len(manifest.recordings)
    for done, recording in enumerate(manifest.recordings, start=1):
        where = _where(recording)
        found = [ValidationIssue(where, what, is_error) for what, is_error in _complaints_about(recording.text)]
        if (other := named.setdefault(recording.name, recording.where)) != recording.where:
            found.append(ValidationIssue(where, f"its name is that of {other}: give each clip one of its own"))
        try:
            audio = _opened(recording.path, manifest.folder)
        except RecordingsError as error:
            found.append(ValidationIssue(where, str(error)))
        else:
            found += _listen(recording, audio, longest_seconds, shortest_seconds)
            if (other := heard.setdefault(audio.sha256, recording.name)) != recording.name:
                found.append(ValidationIssue(where, f"is the same recording as {other}", is_error=False))
            if not any(problem.is_error for problem in found):
                clips.append(Clip(recording, audio.seconds, audio.sha256))
        problems += found
        told(done, total)
    problems += _unlisted(manifest)
    return Report(tuple(clips), tuple(problems), dict(manifest.speakers))


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, wherever its links lead, stays in the folder."""
    return path.resolve().is_relative_to(folder.resolve())


def _opened(path: Path, folder: Path) -> Audio:
    if not is_inside(path, folder):
        raise RecordingsError(f"{path} leads out of the folder: copy the recording into it")
    if not path.is_file():
        raise RecordingsError(f"there is no file {path}")
    try:
        return read_audio(path)
    except OSError as error:
        raise RecordingsError(f"it cannot be read: {error.strerror}") from error


def _complaints_about(text: str) -> list[tuple[str, bool]]:
    if not _has_words(text):
        return [("has no transcript: write down what is said in it", True)]
    found = []
    if "\ufffd" in text:
        found.append(("its transcript holds \ufffd where a character was lost: write it anew", True))
    elif _is_misread(text):
        found.append((f"its transcript looks like UTF-8 that was read as something else: {text[:40]!r}", False))
    return found


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _is_misread(text: str) -> bool:
    """UTF-8 taken for Windows' Latin: hardly any other text survives the way back."""
    if text.isascii():
        return False
    try:
        return text.encode("cp1252").decode("utf-8") != text
    except UnicodeError:
        return False


def _listen(recording: Recording, audio: Audio, longest: float, shortest: float) -> list[ValidationIssue]:
    """What can be told by the sound."""
    where = _where(recording)
    if audio.samples.std() < _SILENCE:
        return [ValidationIssue(where, "is silent")]
    found = []
    loudness = Loudness.of(audio.samples)
    if audio.sample_rate < _LOWEST_RATE:
        found.append(
            ValidationIssue(where, f"its sample rate is {audio.sample_rate} Hz; at least {_LOWEST_RATE} is needed")
        )
    elif audio.sample_rate < _LOW_RATE:
        what = f"its sample rate is {audio.sample_rate} Hz; below {_LOW_RATE} the voice comes out dull"
        found.append(ValidationIssue(where, what, is_error=False))
    if audio.seconds < shortest:
        found.append(ValidationIssue(where, f"lasts {audio.seconds:.2f} s; at least {shortest:g} s are needed"))
    elif audio.seconds > longest:
        what = f"lasts {audio.seconds:.1f} s; at most {longest:g} s are taken: `csm-serve cut` cuts it at its pauses"
        found.append(ValidationIssue(where, what))
    else:
        found += [ValidationIssue(where, what, is_error=False) for what in _doubts(recording.text, audio, loudness)]
    return found


def _doubts(text: str, audio: Audio, loudness: Loudness) -> list[str]:
    found = []
    if audio.at_peak > _CLIPPED:
        found.append(f"is clipped: {audio.at_peak:.1%} of it is at its peak; record it anew with less gain")
    if loudness.speech < _QUIET:
        found.append(f"is very quiet, {loudness.speech:.0f} dB: amplify it")
    for silence, place in ((loudness.lead_seconds, "begins"), (loudness.tail_seconds, "ends")):
        if silence > _LONG_SILENCE:
            found.append(f"{place} with {silence:.1f} s of silence: trim it")
    if not _has_words(text):
        return found
    # The engine stops speaking a text at that bound, so nothing is learnt from a clip that goes on behind it.
    slow = max_frames_for(text) * FRAME_MILLISECONDS / 1000
    spoken = max(audio.seconds - loudness.lead_seconds - loudness.tail_seconds, 0.0)
    if audio.seconds > slow:
        found.append(f"lasts {audio.seconds:.1f} s for {_count(len(text), 'character')}: are words missing?")
    elif spoken < _FASTEST * (slow - max_frames_for("") * FRAME_MILLISECONDS / 1000):
        found.append(f"has {len(text)} characters in {spoken:.1f} s: is it the transcript of another clip?")
    return found


def _unlisted(manifest: Manifest) -> list[ValidationIssue]:
    """Recordings beside the manifest that it does not name, as one warning."""
    listed = {recording.path.resolve() for recording in manifest.recordings}
    inside = [recording.path for recording in manifest.recordings if is_inside(recording.path, manifest.folder)]
    folders = {manifest.folder, *(path.parent for path in inside)}
    beside = [path for folder in sorted(folders) if folder.is_dir() for path in sorted(folder.iterdir())]
    missing = [
        path.relative_to(manifest.folder).as_posix()
        for path in beside
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.resolve() not in listed
    ]
    if not missing or manifest.problems:  # a line that cannot be read may be the one that names it
        return []
    names = ", ".join(missing[:_FEW_NAMES]) + (" …" if len(missing) > _FEW_NAMES else "")
    return [
        ValidationIssue(manifest.source, f"does not name {_count(len(missing), 'recording')}: {names}", is_error=False)
    ]


def _where(recording: Recording) -> str:
    """The clip first, then the line that names it."""
    return recording.name if recording.name == recording.where else f"{recording.name} ({recording.where})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
