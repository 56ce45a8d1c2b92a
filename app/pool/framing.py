"""Wire format between two workers: a job, and more of its text, one way, its speech the other.

A message is its kind (1 byte), the payload's length (4 bytes), and the payload: JSON, after it the samples of a
voice that the job brings, or for audio a header, the timings of text chunks, the codes and the samples. Integers are
in the machine's byte order.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from asyncio import IncompleteReadError, StreamReader
from enum import IntEnum

import numpy as np

from engine import (
    AudioChunk,
    DialogueTurn,
    Lexicon,
    SpeechRequest,
    SpeechSegment,
    TextFeed,
    TextTiming,
    VoicePrompt,
    Word,
)

from .. import errors
from ..errors import ServiceError
from ..schemas.speech import SpeechJob

# Bytes: a text of MAX_TEXT_LENGTH with a voice of the longest MAX_VOICE_SECONDS (58 MB), or a slice of 125 frames
# (0.96 MB) and its pauses.
MESSAGE_LIMIT = 64 << 20

_HEADER = struct.Struct("=BI")
_JOB = struct.Struct("=I")  # bytes of JSON; the samples of a voice follow
# text_chunk, text_part, flags, frames, codebooks, bytes of timings (JSON); these, codes (frames, codebooks) and samples
# follow
_AUDIO = struct.Struct("=IIBIHI")
_LAST_CHUNK, _ENDS_CHUNK, _ENDS_SPEECH, _ENDS_PART = 1, 2, 4, 8


class Kind(IntEnum):
    JOB = 1  # the request and how long it may wait
    ADMITTED = 2  # it has a slot
    STARTED = 3  # the engine's name and the fingerprint
    AUDIO = 4
    END = 5  # the speech is complete
    ERROR = 6  # the last message
    PREPARE = 7  # a voice to encode, in place of a job; nothing is sent back
    ENCODE = 8  # a recording whose codes are to be sent back as audio without samples, in place of a job
    TEXT = 9  # the next part of the job's text, at any time after the job
    TEXT_END = 10  # no more parts follow


class ConnectionBroken(Exception):
    """The other worker closed the connection before its last message."""


async def receive(reader: StreamReader) -> tuple[Kind, bytes]:
    """Read the next message. Raises ConnectionBroken."""
    try:
        kind, length = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        if length > MESSAGE_LIMIT:
            raise ConnectionBroken(f"a message of {length} bytes exceeds the limit of {MESSAGE_LIMIT}")
        return Kind(kind), await reader.readexactly(length)
    except (IncompleteReadError, OSError) as error:
        raise ConnectionBroken("the other worker closed the connection") from error
    except ValueError as error:
        raise ConnectionBroken(f"unknown message ({error})") from error


def message(kind: Kind, payload: bytes = b"") -> bytes:
    return _HEADER.pack(kind, len(payload)) + payload


def job_message(job: SpeechJob, wait: float) -> bytes:
    """job: with its recording made a voice, whose samples are sent exactly: they decide the audio of a seed."""
    assert job.reference is None, "the worker that receives a recording decodes it"
    voice = job.request.voice
    speech = {each.name: getattr(job.request, each.name) for each in dataclasses.fields(job.request)}
    speech["voice"] = None if voice is None else [voice.transcript, voice.sample_rate, voice.speaker]
    speech["more"] = job.request.more is not None  # its parts follow as messages
    if job.request.turns:
        speech["text"] = ""  # it is made of the turns
    speech["turns"] = [[turn.text, turn.gap_milliseconds] for turn in job.request.turns]
    lexicon = job.request.lexicon
    speech["lexicon"] = None if lexicon is None else lexicon.entries
    speech["history"] = [
        {"text": each.text, "speaker": each.speaker, "codes": each.codes.tolist()} for each in job.request.history
    ]
    names = ("voice_id", "turn_voices", "resumed", "key", "weight", "traceparent")
    others = {"job": {name: getattr(job, name) for name in names}, "wait": round(wait, 3)}
    fields = json.dumps({"speech": speech, **others}).encode()
    samples = b"" if voice is None else voice.samples.astype("<f4", copy=False).tobytes()
    return message(Kind.JOB, b"".join([_JOB.pack(len(fields)), fields, samples]))


def read_job(payload: bytes) -> tuple[SpeechJob, float]:
    (size,) = _JOB.unpack_from(payload)
    fields = json.loads(payload[_JOB.size : _JOB.size + size])
    voice = fields["speech"]["voice"]
    if voice is not None:
        voice = VoicePrompt(np.frombuffer(payload, "<f4", offset=_JOB.size + size), *voice)
    history = tuple(
        SpeechSegment(each["text"], np.array(each["codes"], np.int64), each["speaker"])
        for each in fields["speech"]["history"]
    )
    entries = fields["speech"]["lexicon"]
    lexicon = None if entries is None else Lexicon(entries)
    more = TextFeed() if fields["speech"]["more"] else None
    turns = tuple(DialogueTurn(text, gap_milliseconds=gap) for text, gap in fields["speech"]["turns"])
    request = SpeechRequest(
        **{**fields["speech"], "history": history, "lexicon": lexicon, "voice": voice, "more": more, "turns": turns}
    )
    job = {**fields["job"], "turn_voices": tuple(fields["job"]["turn_voices"])}
    return SpeechJob(request, **job), fields["wait"]


def text_message(part: str | None) -> bytes:
    """part: of a job's text; None is its end."""
    return message(Kind.TEXT_END) if part is None else message(Kind.TEXT, part.encode())


def encode_message(recording: VoicePrompt) -> bytes:
    """Ask for the codes of a recording, mono at 24 kHz. Its samples are sent with 16 bits."""
    return message(Kind.ENCODE, np.rint(recording.samples * 32767).clip(-32768, 32767).astype("<i2").tobytes())


def read_recording(payload: bytes) -> VoicePrompt:
    return VoicePrompt(np.frombuffer(payload, "<i2").astype(np.float32) / np.float32(32767))


def audio_message(chunk: AudioChunk) -> bytes:
    flags = (
        _LAST_CHUNK * chunk.in_last_text_chunk
        + _ENDS_CHUNK * chunk.ends_text_chunk
        + _ENDS_SPEECH * chunk.ends_speech
        + _ENDS_PART * chunk.ends_text_part
    )
    timings = json.dumps([dataclasses.asdict(each) for each in chunk.timings]).encode() if chunk.timings else b""
    header = _AUDIO.pack(chunk.text_chunk, chunk.text_part, flags, *chunk.codes.shape, len(timings))
    codes, samples = chunk.codes.astype("<i4"), chunk.samples.astype("<f4", copy=False)
    return message(Kind.AUDIO, b"".join([header, timings, codes.tobytes(), samples.tobytes()]))


def read_audio(payload: bytes) -> AudioChunk:
    text_chunk, text_part, flags, frames, codebooks, size = _AUDIO.unpack_from(payload)
    at = _AUDIO.size + size
    codes = np.frombuffer(payload, "<i4", frames * codebooks, offset=at)
    return AudioChunk(
        samples=np.frombuffer(payload, "<f4", offset=at + codes.nbytes),
        codes=codes.reshape(frames, codebooks).astype(np.int64),
        text_chunk=text_chunk,
        in_last_text_chunk=bool(flags & _LAST_CHUNK),
        ends_text_chunk=bool(flags & _ENDS_CHUNK),
        ends_speech=bool(flags & _ENDS_SPEECH),
        timings=_read_timings(payload[_AUDIO.size : at]) if size else (),
        text_part=text_part,
        ends_text_part=bool(flags & _ENDS_PART),
    )


def _read_timings(data: bytes) -> tuple[TextTiming, ...]:
    return tuple(
        TextTiming(tuple(Word(**word) for word in each["words"]), each["begin"], each["end"])
        for each in json.loads(data)
    )


def error_message(error: ServiceError) -> bytes:
    fields = {
        "kind": type(error).__name__,
        "detail": error.detail,
        "code": error.code,
        "retry_after": error.retry_after,
    }
    return message(Kind.ERROR, json.dumps(fields).encode())


def read_error(payload: bytes) -> ServiceError:
    """The error that the other worker sent."""
    fields = json.loads(payload)
    kind = getattr(errors, fields["kind"], ServiceError)
    error = kind(fields["detail"], code=fields["code"], retry_after=fields["retry_after"])
    assert isinstance(error, ServiceError)
    return error
