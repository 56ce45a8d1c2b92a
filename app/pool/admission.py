"""Who may speak now: permits for slots, handed out in the order of arrival, with a bounded wait."""

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
    granted: asyncio.Future[None]


class Admission:
    """Permits of one worker. Everything here runs on its event loop.

    capacity: how many permits there are, one for each slot of the engine.
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
        """Permits that are taken."""
        return self.capacity - self._free

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiters)

    @asynccontextmanager
    async def reserve(self, permits: int = 1, timeout: float | None = None) -> AsyncIterator[None]:
        """Hold permits for as long as the context lasts.

        timeout: how long this one may wait, in seconds; None: as long as anybody.
        Nobody overtakes: a request that needs two permits is not starved by those that need one.
        Raises Busy if the queue is full or the wait is over, Unprocessable if there are never that many,
        Unavailable once the admission is closed. A waiter that is cancelled leaves no trace.
        """
        await self._acquire(permits, self._timeout if timeout is None else max(timeout, 0.0))
        self._on_change()
        try:
            yield
        finally:
            self._release(permits)
            self._on_change()

    def close(self) -> None:
        """Nobody is admitted any more, and who waits is told so."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(_draining())
        self._waiters.clear()
        self._on_change()

    async def _acquire(self, permits: int, timeout: float) -> None:
        if self._closed:
            raise _draining()
        if permits > self.capacity:
            raise Unprocessable(
                f"this request takes {permits} slots and a worker has {self.capacity}: "
                "send cfg_guidance_weight=0, or raise CONCURRENT_REQUESTS_PER_WORKER",
                code="too_many_slots",
            )
        if not self._waiters and permits <= self._free:
            self._free -= permits
            return
        if len(self._waiters) >= self._max_queued:
            raise Busy(f"all {self.capacity} slots are taken and {self._max_queued} requests wait: try again soon")
        loop = asyncio.get_running_loop()
        waiter = _Waiter(permits, loop.create_future())
        self._waiters.append(waiter)
        deadline = loop.call_later(timeout, self._turn_away, waiter)
        self._on_change()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.cancelled():
                self._forget(waiter)
            elif waiter.granted.exception() is None:  # granted in the same moment: the permits go to the next
                self._release(permits)
            raise
        finally:
            deadline.cancel()
            self._on_change()

    def _turn_away(self, waiter: _Waiter) -> None:
        if not waiter.granted.done():
            waiter.granted.set_exception(Busy(f"no slot became free within {self._timeout:g} seconds: try again soon"))
            self._forget(waiter)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        self._admit()  # who stood behind it may need fewer

    def _release(self, permits: int) -> None:
        self._free += permits
        self._admit()

    def _admit(self) -> None:
        while self._waiters and (self._waiters[0].granted.done() or self._waiters[0].permits <= self._free):
            waiter = self._waiters.popleft()
            if not waiter.granted.done():  # else it was cancelled, and has not run yet
                self._free -= waiter.permits
                waiter.granted.set_result(None)


def _draining() -> Unavailable:
    return Unavailable("this worker is shutting down: try again soon", code="draining")
