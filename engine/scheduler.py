"""FIFO scheduler: assigns KV-cache rows to waiting requests, lowest rows first. Pure, no torch."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Schedulable(Protocol):
    rows: list[int]  # filled by the scheduler

    @property
    def rows_needed(self) -> int: ...


T = TypeVar("T", bound=Schedulable)


class Scheduler(Generic[T]):
    """Assigns rows 0 to count - 1. Low rows go first, so that the running rows stay close to a prefix of all rows."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))
        self._waiting: deque[T] = deque()
        self.running: list[T] = []

    @property
    def rows_taken(self) -> int:
        return self.count - len(self._free)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enqueue(self, item: T) -> None:
        self._waiting.append(item)

    def admit(self) -> list[T]:
        """Assign rows to waiting items in order of arrival, until the next needs more rows than are free.

        Returns the admitted items.
        """
        before = len(self.running)
        while self._waiting and self._waiting[0].rows_needed <= len(self._free):
            item = self._waiting.popleft()
            item.rows = [heapq.heappop(self._free) for _ in range(item.rows_needed)]
            self.running.append(item)
        return self.running[before:]

    def release(self, item: T) -> None:
        """Free the rows of a running item, or remove a waiting one from the queue."""
        if item in self.running:
            self.running.remove(item)
            for row in item.rows:
                heapq.heappush(self._free, row)
            item.rows = []
        else:
            self._waiting.remove(item)

    def __iter__(self) -> Iterator[T]:
        """All items, running ones first."""
        yield from list(self.running)
        yield from list(self._waiting)
