"""What two workers say to each other over a socket: an order one way, its speech the other.

A message is its kind (1 byte), the length of what follows (4 bytes), and that: JSON, or for audio a head and samples.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from asyncio import IncompleteReadError, StreamReader
from enum import IntEnum

import numpy as np

from engine import AudioChunk, SpeechRequest, SpeechSegment

from .. import errors
from ..errors import ServiceError
from ..schemas.speech import SpeechJob

MESSAGE_LIMIT = 8 << 20  # a text of MAX_TEXT_LENGTH, or a slice of 125 frames: 0.96 MB

_HEAD = struct.Struct("=BI")
_AUDIO = struct.Struct("=IBIH")  # text_chunk, flags, frames and codebooks of the codes, which stand before the samples
_LAST_CHUNK, _ENDS_CHUNK, _ENDS_SPEECH = 1, 2, 4


class Kind(IntEnum):
    JOB = 1  # what to speak, and how long it may wait
    ADMITTED = 2  # it has its slot
    BEGUN = 3  # it is being spoken: by which engine
    AUDIO = 4
    END = 5  # of the whole speech
    ERROR = 6  # and nothing more


class ConnectionBroken(Exception):
    """The other side is gone, in the middle of what it had to say."""


async def receive(reader: StreamReader) -> tuple[Kind, bytes]:
    """The next message. Raises ConnectionBroken."""
    try:
        kind, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if length > MESSAGE_LIMIT:
            raise ConnectionBroken(f"a message of {length} bytes is none of ours")
        return Kind(kind), await reader.readexactly(length)
    except (IncompleteReadError, OSError) as error:
        raise ConnectionBroken("the other worker closed the connection") from error
    except ValueError as error:
        raise ConnectionBroken(f"a message that is none of ours ({error})") from error


def message(kind: Kind, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def job_message(job: SpeechJob, wait: float) -> bytes:
    speech = {each.name: getattr(job.request, each.name) for each in dataclasses.fields(job.request)}
    del speech["voice"]  # whoever speaks looks it up himself, at that moment
    speech["history"] = [
        {"text": said.text, "speaker": said.speaker, "codes": said.codes.tolist()} for said in job.request.history
    ]
    return message(Kind.JOB, json.dumps({"speech": speech, "voice_id": job.voice_id, "wait": round(wait, 3)}).encode())


def read_job(payload: bytes) -> tuple[SpeechJob, float]:
    said = json.loads(payload)
    history = tuple(
        SpeechSegment(each["text"], np.array(each["codes"], np.int64), each["speaker"])
        for each in said["speech"]["history"]
    )
    return SpeechJob(SpeechRequest(**{**said["speech"], "history": history}), said["voice_id"]), said["wait"]


def audio_message(chunk: AudioChunk) -> bytes:
    flags = (
        _LAST_CHUNK * chunk.in_last_text_chunk + _ENDS_CHUNK * chunk.ends_text_chunk + _ENDS_SPEECH * chunk.ends_speech
    )
    head = _AUDIO.pack(chunk.text_chunk, flags, *chunk.codes.shape)
    codes, samples = chunk.codes.astype("<i4"), chunk.samples.astype("<f4", copy=False)
    return message(Kind.AUDIO, b"".join([head, codes.tobytes(), samples.tobytes()]))


def read_audio(payload: bytes) -> AudioChunk:
    text_chunk, flags, frames, codebooks = _AUDIO.unpack_from(payload)
    codes = np.frombuffer(payload, "<i4", frames * codebooks, offset=_AUDIO.size)
    return AudioChunk(
        samples=np.frombuffer(payload, "<f4", offset=_AUDIO.size + codes.nbytes),
        codes=codes.reshape(frames, codebooks).astype(np.int64),
        text_chunk=text_chunk,
        in_last_text_chunk=bool(flags & _LAST_CHUNK),
        ends_text_chunk=bool(flags & _ENDS_CHUNK),
        ends_speech=bool(flags & _ENDS_SPEECH),
    )


def error_message(error: ServiceError) -> bytes:
    said = {
        "kind": type(error).__name__,
        "detail": error.detail,
        "code": error.code,
        "retry_after": error.retry_after,
    }
    return message(Kind.ERROR, json.dumps(said).encode())


def read_error(payload: bytes) -> ServiceError:
    """The same error as over there."""
    said = json.loads(payload)
    kind = getattr(errors, said["kind"], ServiceError)
    error = kind(said["detail"], code=said["code"], retry_after=said["retry_after"])
    assert isinstance(error, ServiceError)
    return error
