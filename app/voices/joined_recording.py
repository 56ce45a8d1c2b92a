"""One recording of several files, which clients send that know a voice as a list of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine import SAMPLE_RATE

from ..audio.encoders import wav_file
from ..errors import ServiceError, Unprocessable
from .loudness import Samples
from .preparation import prepare
from .recording_decoder import MIN_SECONDS, DecodedRecording
from .transcript import clean_transcript

_PAUSE_SECONDS = 0.3  # between two files


class RecordingFile(NamedTuple):
    """A file as it was sent. name: for messages."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class JoinedRecording:
    """recording: a wav file of the files that fit, each at the same loudness and without silence at its ends.

    names: of those files. transcript: their words; empty if it is not known which they are. warnings: quality problems
    of each file, and what was left out, each a sentence.
    """

    recording: bytes
    names: tuple[str, ...]
    transcript: str
    warnings: tuple[str, ...]


def join_recordings(
    files: Sequence[RecordingFile],
    transcripts: Sequence[str],
    decode: Callable[[bytes], DecodedRecording],
    max_seconds: float,
) -> JoinedRecording:
    """Join as many files as fit into max_seconds, in their order; one that is too long for the rest is left out.

    transcripts: none, one of all files together, or one of each.

    Raises Unprocessable for another number of transcripts, and what `decode` raises, with the name of the file.
    """
    if len(transcripts) not in (0, 1, len(files)):
        raise Unprocessable(
            f"{len(transcripts)} transcripts of {len(files)} files were sent: send one of each file in the same order, "
            "or one of all together",
            code="bad_transcript",
        )
    parts: list[Samples] = []
    joined: list[int] = []
    warnings: list[str] = []
    seconds = 0.0
    for index, file in enumerate(files):
        before = seconds + _PAUSE_SECONDS if parts else 0.0
        if before + MIN_SECONDS > max_seconds:
            warnings.append(_left_out(file.name, max_seconds))
            continue
        part = _prepare(file, decode, warnings)
        after = before + part.size / SAMPLE_RATE
        if after > max_seconds:
            warnings.append(_left_out(file.name, max_seconds))
            continue
        parts.append(part)
        joined.append(index)
        seconds = after
    transcript = _transcript(transcripts, joined, len(files), warnings)
    names = tuple(files[index].name for index in joined)
    return JoinedRecording(wav_file(_with_pauses(parts)), names, transcript, tuple(warnings))


def _prepare(file: RecordingFile, decode: Callable[[bytes], DecodedRecording], warnings: list[str]) -> Samples:
    try:
        prepared = prepare(decode(file.read()))
    except ServiceError as error:
        raise type(error)(f"{file.name}: {error.detail}", code=error.code) from None
    warnings += (f"{file.name}: {warning}" for warning in prepared.warnings)
    return prepared.samples


def _left_out(name: str, max_seconds: float) -> str:
    return f"{name} was left out: with it the voice would be longer than MAX_VOICE_SECONDS, {max_seconds:g} s"


def _transcript(transcripts: Sequence[str], joined: Sequence[int], files: int, warnings: list[str]) -> str:
    """The words of what was joined, where they are known: the model is prompted with both, and takes them for true."""
    if len(transcripts) == files:
        known = [clean_transcript(transcripts[index]) for index in joined]
        if all(known):
            return " ".join(known)
        if any(known):
            warnings.append("the transcripts were left out, since those of some files are empty")
        return ""
    words = clean_transcript(transcripts[0]) if transcripts else ""
    if words and len(joined) < files:
        warnings.append("the transcript was left out, since it is of all files together: send one of each file")
        return ""
    return words


def _with_pauses(parts: Sequence[Samples]) -> Samples:
    pause = np.zeros(round(_PAUSE_SECONDS * SAMPLE_RATE), np.float32)
    pieces = [piece for part in parts for piece in (pause, part)]
    return np.concatenate(pieces[1:])
