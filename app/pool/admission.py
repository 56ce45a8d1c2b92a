"""Admission control: a FIFO semaphore over engine slots with a queue limit and a wait limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..errors import Busy, Unavailable, Unprocessable


@dataclass(eq=False)
class _Waiter:
    permits: int
    first: bool
    granted: asyncio.Future[None]


class Admission:
    """The permits of one worker. Not thread-safe: use it on the worker's event loop only.

    capacity: number of permits, one for each engine slot.
    max_queued: how many requests may wait.
    timeout: how long each may wait, in seconds.
    on_change: called when `active` or `queued` have changed.
    """

    def __init__(
        self, capacity: int, max_queued: int, timeout: float, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._on_change = on_change
        self.capacity = capacity
        self._free = capacity
        self._max_queued = max_queued
        self._timeout = timeout
        self._waiters: deque[_Waiter] = deque()
        self._closed = False

    @property
    def active(self) -> int:
        """Permits in use."""
        return self.capacity - self._free

    @property
    def queued(self) -> int:
        """Waiting requests."""
        return len(self._waiters)

    @asynccontextmanager
    async def reserve(
        self, permits: int = 1, timeout: float | None = None, *, first: bool = False
    ) -> AsyncIterator[None]:
        """Hold permits while the context lasts.

        timeout: how long this request may wait, in seconds; None: the limit of all requests.
        first: before all that wait without it, and however many those are: a listener waits for the rest of a speech.
        Among equals strictly first in, first out: requests for one permit do not starve one that needs two.
        Raises Busy if the queue is full or the wait has timed out, Unprocessable if `permits` exceeds the capacity,
        Unavailable once the admission is closed. A cancelled waiter leaves the queue and holds nothing.
        """
        await self._acquire(permits, self._timeout if timeout is None else max(timeout, 0.0), first)
        self._on_change()
        try:
            yield
        finally:
            self._release(permits)
            self._on_change()

    def close(self) -> None:
        """Admit no more requests, and refuse those that wait."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(_draining())
        self._waiters.clear()
        self._on_change()

    async def _acquire(self, permits: int, timeout: float, first: bool) -> None:
        if self._closed:
            raise _draining()
        if permits > self.capacity:
            raise Unprocessable(
                f"this request takes {permits} slots and a worker has {self.capacity}: "
                "send cfg_guidance_weight=0, or raise CONCURRENT_REQUESTS_PER_WORKER",
                code="too_many_slots",
            )
        ahead = sum(each.first for each in self._waiters) if first else len(self._waiters)
        if not ahead and permits <= self._free:
            self._free -= permits
            return
        if not first and ahead >= self._max_queued:
            raise Busy(f"all {self.capacity} slots are taken and {self._max_queued} requests wait: try again soon")
        loop = asyncio.get_running_loop()
        waiter = _Waiter(permits, first, loop.create_future())
        self._waiters.insert(ahead, waiter)
        deadline = loop.call_later(timeout, self._time_out, waiter)
        self._on_change()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.cancelled():
                self._remove(waiter)
            elif waiter.granted.exception() is None:  # granted at the same moment: pass the permits on
                self._release(permits)
            raise
        finally:
            deadline.cancel()
            self._on_change()

    def _time_out(self, waiter: _Waiter) -> None:
        if not waiter.granted.done():
            waiter.granted.set_exception(Busy(f"no slot became free within {self._timeout:g} seconds: try again soon"))
            self._remove(waiter)

    def _remove(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        self._admit()  # the next one may need fewer permits

    def _release(self, permits: int) -> None:
        self._free += permits
        self._admit()

    def _admit(self) -> None:
        while self._waiters and (self._waiters[0].granted.done() or self._waiters[0].permits <= self._free):
            waiter = self._waiters.popleft()
            if not waiter.granted.done():  # else it was cancelled and has not run since
                self._free -= waiter.permits
                waiter.granted.set_result(None)


def _draining() -> Unavailable:
    return Unavailable("this worker is shutting down: try again soon", code="draining")
