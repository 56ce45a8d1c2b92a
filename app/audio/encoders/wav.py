"""RIFF/WAVE encoding: an unknown length in the header of a stream, the exact length in that of a finished file."""

from __future__ import annotations

import struct
from typing import Literal

from engine import SAMPLE_RATE

from .base import Samples
from .pcm import to_int16

UNKNOWN_LENGTH = 0xFFFFFFFF  # in a size field: read until the end of the stream
HEADER_BYTES = 44

_SAMPLE_BYTES = 2
_PCM = 1
_G711 = {"alaw": 6, "mulaw": 7}  # format tags (RFC 2361)
_MONO = 1


def wav_header(data_bytes: int | None, sample_rate: int = SAMPLE_RATE) -> bytes:
    """The 44-byte header of mono s16le samples. Raises ValueError if they exceed the limit of a wav file (4 GiB).

    data_bytes: number of bytes of samples that follow; None if unknown.
    """
    if data_bytes is None:
        riff_size = data_size = UNKNOWN_LENGTH
    else:
        riff_size, data_size = HEADER_BYTES - 8 + data_bytes, data_bytes
        if not 0 <= riff_size < UNKNOWN_LENGTH:
            raise ValueError(f"a wav file holds less than 4 GiB of samples, not {data_bytes} bytes")
    byte_rate = sample_rate * _SAMPLE_BYTES
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff_size, b"WAVE"),
        *(b"fmt ", 16, _PCM, _MONO, sample_rate, byte_rate, _SAMPLE_BYTES, 8 * _SAMPLE_BYTES),
        *(b"data", data_size),
    )


def wav_file(samples: Samples, sample_rate: int = SAMPLE_RATE) -> bytes:
    """A finished wav file with exact sizes: mono samples (n,) at sample_rate, saturated to s16le."""
    data = to_int16(samples).tobytes()
    return wav_header(len(data), sample_rate) + data


def g711_wav_header(law: Literal["mulaw", "alaw"], sample_rate: int) -> bytes:
    """The 58-byte header of a stream of G.711. Other codecs than PCM have a longer fmt chunk, and a fact chunk."""
    return struct.pack(
        "<4sI4s4sIHHIIHHH4sII4sI",
        *(b"RIFF", UNKNOWN_LENGTH, b"WAVE"),
        *(b"fmt ", 18, _G711[law], _MONO, sample_rate, sample_rate, 1, 8, 0),
        *(b"fact", 4, UNKNOWN_LENGTH),
        *(b"data", UNKNOWN_LENGTH),
    )


class WavEncoder:
    """Streams a wav file whose length is unknown when its header is sent."""

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        self._pending_header = wav_header(None, sample_rate)

    def encode(self, samples: Samples) -> bytes:
        header, self._pending_header = self._pending_header, b""
        return header + to_int16(samples).tobytes()

    def flush(self) -> bytes:
        header, self._pending_header = self._pending_header, b""
        return header
