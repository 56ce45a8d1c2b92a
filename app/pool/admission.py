"""Admission control: a weighted fair queue for engine slots, with a queue limit and a wait limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..errors import Busy, Unavailable, Unprocessable


@dataclass(eq=False)
class _Waiter:
    permits: int
    granted: asyncio.Future[None]
    lane: _Lane
    queue: deque[_Waiter]  # that it waits in


@dataclass(eq=False)
class _Lane:
    """The requests of one API key, first in, first out. turns: permits that it was granted, divided by its weight."""

    weight: float
    waiters: deque[_Waiter] = field(default_factory=deque)
    requests: int = 0  # that wait or hold permits
    active: int = 0  # permits in use
    turns: float = 0.0


class Admission:
    """The permits of one worker. Not thread-safe: use it on the worker's event loop only.

    A free permit goes to the key that has the fewest in use, by its weight; among equals to the one that was granted
    the fewest turns since it began to wait (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). So one
    request of a key waits for one turn of another key at most, however many that one has. Within a key, and where all
    requests have the same key, it is first in, first out.

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
        self._first: deque[_Waiter] = deque()  # those that go before all lanes
        self._lanes: dict[str, _Lane] = {}
        self._turns = 0.0  # of the key that was granted the last turn, before it: a key that comes back begins there
        self._closed = False

    @property
    def active(self) -> int:
        """Permits in use."""
        return self.capacity - self._free

    @property
    def queued(self) -> int:
        """Waiting requests."""
        return sum(map(len, self._queues()))

    @asynccontextmanager
    async def reserve(
        self,
        permits: int = 1,
        timeout: float | None = None,
        *,
        first: bool = False,
        key: str = "",
        weight: float = 1.0,
    ) -> AsyncIterator[None]:
        """Hold permits while the context lasts.

        timeout: how long this request may wait, in seconds; None: the limit of all requests.
        first: before all that wait without it, and however many those are: a listener waits for the rest of a speech.
        key: that it belongs to. weight: of that key.
        The request whose turn it is goes first: those for one permit do not starve one that needs two.
        A full queue has a place for a key that has fewer waiting than another, by its weight: the newest request of
        the one that has the most leaves it.
        Raises Busy if the queue is full or the wait has timed out, Unprocessable if `permits` exceeds the capacity,
        Unavailable once the admission is closed. A cancelled waiter leaves the queue and holds nothing.
        """
        lane = self._lanes.setdefault(key, _Lane(weight))
        lane.weight = weight
        lane.requests += 1
        try:
            await self._acquire(lane, permits, self._timeout if timeout is None else max(timeout, 0.0), first)
            self._on_change()
            try:
                yield
            finally:
                self._release(lane, permits)
                self._on_change()
        finally:
            lane.requests -= 1
            self._forget_idle()

    def close(self) -> None:
        """Admit no more requests, and refuse those that wait."""
        self._closed = True
        for queue in self._queues():
            for waiter in queue:
                if not waiter.granted.done():
                    waiter.granted.set_exception(_draining())
            queue.clear()
        self._on_change()

    def _queues(self) -> list[deque[_Waiter]]:
        return [self._first, *(each.waiters for each in self._lanes.values())]

    async def _acquire(self, lane: _Lane, permits: int, timeout: float, first: bool) -> None:
        if self._closed:
            raise _draining()
        if permits > self.capacity:
            raise Unprocessable(
                f"this request takes {permits} slots and a worker has {self.capacity}: "
                "send cfg_guidance_weight=0, or raise CONCURRENT_REQUESTS_PER_WORKER",
                code="too_many_slots",
            )
        ahead = len(self._first) if first else self.queued
        if not ahead and permits <= self._free:
            self._grant(lane, permits)
            return
        if not first:
            if ahead >= self._max_queued:
                self._make_room(lane)
            if not lane.waiters:
                lane.turns = max(lane.turns, self._turns)  # what it did not use before it waited is not made up for
        loop = asyncio.get_running_loop()
        waiter = _Waiter(permits, loop.create_future(), lane, self._first if first else lane.waiters)
        waiter.queue.append(waiter)
        deadline = loop.call_later(timeout, self._time_out, waiter)
        self._on_change()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.cancelled():
                self._remove(waiter)
            elif waiter.granted.exception() is None:  # granted at the same moment: pass the permits on
                self._release(lane, permits)
            raise
        finally:
            deadline.cancel()
            self._on_change()

    def _time_out(self, waiter: _Waiter) -> None:
        if not waiter.granted.done():
            waiter.granted.set_exception(Busy(f"no slot became free within {self._timeout:g} seconds: try again soon"))
            self._remove(waiter)

    def _remove(self, waiter: _Waiter) -> None:
        if waiter in waiter.queue:
            waiter.queue.remove(waiter)
        self._admit()  # the next one may need fewer permits

    def _make_room(self, lane: _Lane) -> None:
        """Refuse the newest request of the key with the most waiting. Raises Busy if that is this one's key."""
        slots = "the only slot is taken" if self.capacity == 1 else f"all {self.capacity} slots are taken"
        waiting = "none may wait" if self._max_queued == 0 else f"as many requests wait as may ({self._max_queued})"
        busy = Busy(f"{slots}, and {waiting}: try again soon")
        longest = max(self._lanes.values(), key=lambda each: len(each.waiters) / each.weight)
        if len(longest.waiters) / longest.weight <= (len(lane.waiters) + 1) / lane.weight:
            raise busy
        waiter = longest.waiters.pop()
        if not waiter.granted.done():
            waiter.granted.set_exception(busy)

    def _grant(self, lane: _Lane, permits: int) -> None:
        self._free -= permits
        lane.active += permits
        self._turns = lane.turns = max(lane.turns, self._turns)
        lane.turns += permits / lane.weight

    def _release(self, lane: _Lane, permits: int) -> None:
        self._free += permits
        lane.active -= permits
        self._admit()

    def _admit(self) -> None:
        while (waiter := self._next_waiter()) is not None:
            if waiter.granted.done():  # it was cancelled and has not run since
                waiter.queue.popleft()
            elif waiter.permits <= self._free:
                waiter.queue.popleft()
                self._grant(waiter.lane, waiter.permits)
                waiter.granted.set_result(None)
            else:
                return

    def _next_waiter(self) -> _Waiter | None:
        """The request whose turn it is; None if none waits. Lanes are in the order in which their keys came."""
        if self._first:
            return self._first[0]
        waiting = [each for each in self._lanes.values() if each.waiters]
        lane = min(waiting, key=lambda each: (each.active / each.weight, each.turns), default=None)
        return None if lane is None else lane.waiters[0]

    def _forget_idle(self) -> None:
        """Keys without a request that have had no turn ahead of others; all keys at rest."""
        at_rest = not any(each.requests for each in self._lanes.values())
        for key, lane in list(self._lanes.items()):
            if not lane.requests and (at_rest or lane.turns <= self._turns):
                del self._lanes[key]
        if at_rest:
            self._turns = 0.0


def _draining() -> Unavailable:
    return Unavailable("this worker is shutting down: try again soon", code="draining")
