"""RIFF/WAVE: a header of unknown length for a stream, one of exact length for a finished file."""

from __future__ import annotations

import struct

from engine import SAMPLE_RATE

from .base import Samples
from .pcm import to_int16

UNKNOWN_LENGTH = 0xFFFFFFFF  # in a size field: read until the end
HEADER_BYTES = 44

_SAMPLE_BYTES = 2
_PCM = 1
_MONO = 1


def wav_header(data_bytes: int | None, sample_rate: int = SAMPLE_RATE) -> bytes:
    """The 44 bytes in front of mono s16le samples.

    data_bytes: how many bytes of samples follow; None if that is not known yet.
    Raises ValueError if there are more than a wav file can hold (4 GiB).
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
    """A finished wav file, its sizes exact: samples (n,) mono at sample_rate, saturated to s16le."""
    data = to_int16(samples).tobytes()
    return wav_header(len(data), sample_rate) + data


class WavEncoder:
    """A wav file whose length is not known when its header leaves."""

    def __init__(self) -> None:
        self._pending_header = wav_header(None)

    def encode(self, samples: Samples) -> bytes:
        header, self._pending_header = self._pending_header, b""
        return header + to_int16(samples).tobytes()

    def flush(self) -> bytes:
        header, self._pending_header = self._pending_header, b""
        return header
