"""How much sound the bytes of an answer are, told without decoding them: the one who measures has hundreds to hear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

SAMPLE_RATE = 24_000
_MP3_SAMPLES_PER_BYTE = 3  # 64 kbit/s, each frame by itself: 192 bytes are 576 samples
_AAC_SAMPLES = 1024  # of a packet
_TRUN_COUNT_AT = 4  # behind version and flags


class Meter(Protocol):
    """Counts the sound of one answer."""

    def feed(self, data: bytes) -> int:
        """How many samples these bytes are, beyond those before."""
        ...


class PcmMeter:
    """s16le behind a header of so many bytes."""

    def __init__(self, header_bytes: int) -> None:
        self._bytes = -header_bytes
        self._samples = 0

    def feed(self, data: bytes) -> int:
        self._bytes += len(data)
        before, self._samples = self._samples, max(self._bytes, 0) // 2
        return self._samples - before


class Mp3Meter:
    """MP3 of constant bit rate, as the service makes it."""

    def feed(self, data: bytes) -> int:
        return len(data) * _MP3_SAMPLES_PER_BYTE


class Fmp4Meter:
    """AAC in fragments: each `moof` says in its `trun` how many packets the `mdat` behind it has."""

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
                self._pending = self._pending[8:]  # its inside comes next
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
