"""Counts by name that expire, shared by all workers of a machine: a hash table in memory mapped before the fork."""

from __future__ import annotations

import hashlib
import mmap
import struct
import time
from collections.abc import Sequence

from ..shared_lock import SharedLock

SIZE = 1 << 16  # entries: 2 MiB, of which the kernel provides what is used
_PROBES = 32  # places that an entry may have
_ENTRY = struct.Struct("=16sqd")  # digest of the name, count, time.monotonic() of its end
_FREE = bytes(16)


class SharedCounts:
    """Exact for all workers together: each call is one step under one lock, held for microseconds.

    A count ends `seconds` after its last change and is then 0 again. Should 32 colliding names be in use at once, the
    one that would end first is forgotten.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, size * _ENTRY.size)  # zeros, shared with every fork
        self._lock = SharedLock("counts")

    def add(self, name: str, amount: int, seconds: float) -> int:
        """Add to a count, which then ends after some seconds. Returns the new count."""
        with self._lock.held():
            return self._add(name, amount, seconds)

    def get(self, name: str) -> int:
        """0 for a count that has not begun or has ended."""
        return self.get_all([name])[0]

    def get_all(self, names: Sequence[str]) -> list[int]:
        """All at the same time."""
        with self._lock.held():
            return [self._get(name) for name in names]

    def take(self, name: str, together: Sequence[str], amount: int, limit: int, seconds: float) -> bool:
        """Add to a count unless it and the others would together exceed a limit. together: `name` among them."""
        with self._lock.held():
            if sum(map(self._get, together)) + amount > limit:
                return False
            self._add(name, amount, seconds)
            return True

    def _get(self, name: str) -> int:
        wanted, now = _digest(name), time.monotonic()
        digest, count, end = self._read(self._place(wanted, now))
        return count if digest == wanted and end > now else 0

    def _add(self, name: str, amount: int, seconds: float) -> int:
        wanted, now = _digest(name), time.monotonic()
        place = self._place(wanted, now)
        digest, count, end = self._read(place)
        if digest != wanted or end <= now:
            count = 0
        _ENTRY.pack_into(self._memory, place, wanted, count + amount, now + seconds)
        return count + amount

    def _place(self, wanted: bytes, now: float) -> int:
        """Where an entry is, or where it is to be put."""
        at = int.from_bytes(wanted[:8], "little")
        free, first_end, first = None, float("inf"), 0
        for step in range(_PROBES):
            place = (at + step) % self._size * _ENTRY.size
            digest, _, end = self._read(place)
            if digest == wanted:
                return place
            if digest == _FREE:
                return place if free is None else free  # no entry ever becomes free again: nothing lies behind it
            if end <= now and free is None:
                free = place
            if end < first_end:
                first_end, first = end, place
        return first if free is None else free

    def _read(self, place: int) -> tuple[bytes, int, float]:
        return _ENTRY.unpack_from(self._memory, place)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
