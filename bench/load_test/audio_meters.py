"""Counts the audio samples in response bytes without decoding, so that one process can read hundreds of streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

SAMPLE_RATE = 24_000
_MP3_SAMPLES_PER_BYTE = 3  # 64 kbit/s without bit reservoir: a frame of 192 bytes has 576 samples
_AAC_SAMPLES = 1024  # per packet
_TRUN_COUNT_AT = 4  # offset after version and flags


class Meter(Protocol):
    """Counts the samples of one response."""

    def feed(self, data: bytes) -> int:
        """Return the number of samples that these bytes add."""
        ...


class PcmMeter:
    """16-bit PCM after a header of `header_bytes` bytes."""

    def __init__(self, header_bytes: int) -> None:
        self._bytes = -header_bytes
        self._samples = 0

    def feed(self, data: bytes) -> int:
        self._bytes += len(data)
        before, self._samples = self._samples, max(self._bytes, 0) // 2
        return self._samples - before


class Mp3Meter:
    """MP3 at the service's constant bit rate."""

    def feed(self, data: bytes) -> int:
        return len(data) * _MP3_SAMPLES_PER_BYTE


class Fmp4Meter:
    """AAC in fragmented MP4: the `trun` box of each `moof` has the number of packets in the following `mdat`."""

    def __init__(self) -> None:
        self._pending = b""
        self._to_skip = 0

    def feed(self, data: bytes) -> int:
        self._pending += data
        samples = 0
        while self._pending:
            if self._to_skip:
                skipped = min(self._to_skip, len(self._pending))
                self._pending, self._to_skip = self._pending[skipped:], self._to_skip - skipped
                continue
            if len(self._pending) < 8:
                break
            size, kind = int.from_bytes(self._pending[:4], "big"), self._pending[4:8]
            if kind in (b"moof", b"traf"):
                self._pending = self._pending[8:]  # container box: continue with its content
            elif kind == b"trun":
                if len(self._pending) < size:
                    break
                at = 8 + _TRUN_COUNT_AT
                samples += int.from_bytes(self._pending[at : at + 4], "big") * _AAC_SAMPLES
                self._to_skip = size
            else:
                self._to_skip = max(size, 8)
        return samples


METERS: dict[str, Callable[[], Meter]] = {
    "raw_pcm": lambda: PcmMeter(0),
    "wav": lambda: PcmMeter(44),
    "mp3": Mp3Meter,
    "fmp4": Fmp4Meter,
}
