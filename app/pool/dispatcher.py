"""An order on its way to the worker that speaks it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from engine import AudioChunk

from ..errors import Busy, EngineBroke, ServiceError, Unavailable
from ..schemas.speech import SpeechJob
from .framing import ConnectionBroken
from .local import LocalSpeech
from .remote import RemoteSpeech

if TYPE_CHECKING:
    from .pool import Pool

_log = logging.getLogger(__name__)

LOOK_AROUND_SECONDS = 0.1  # how often an order that waits looks whether somebody else has a slot meanwhile
_OVERTIME_SECONDS = 1.0  # in which a worker says itself that the wait is over; one that hangs says nothing

Source = LocalSpeech | RemoteSpeech


class Dispatch:
    """Finds who speaks an order, and holds the slot there and the permits on the board until it is closed."""

    def __init__(self, pool: Pool, job: SpeechJob) -> None:
        self.target = pool.index
        self._pool = pool
        self._order = job
        self._source: Source | None = None
        self._held = AsyncExitStack()
        self._reserved: set[int] = set()  # workers on which the board counts its permits
        self._passed_over: set[int] = set()
        self._deadline = time.monotonic() + pool.wait
        self._admitted = False
        self._may_begin_again = True

    @property
    def source(self) -> Source:
        assert self._source is not None, "begin() has not returned"
        return self._source

    async def begin(self) -> None:
        """Be given a slot by somebody. Raises ServiceError if nobody does."""
        refusal: ServiceError | None = None
        while (target := self._reserve()) is not None:
            try:
                await self._ask(target)
                return
            except Busy as error:
                refusal = error
                if time.monotonic() >= self._deadline:
                    break
            except Unavailable as error:
                refusal = refusal or error
            except ConnectionBroken as error:
                spot = self._pool.board.spots[self.target]
                _log.warning("worker %s was asked for speech: %s", spot.worker_id, error)
            self._passed_over.add(self.target)
        raise refusal or self._pool.nobody()

    async def begin_again(self) -> None:
        """The worker died before it was heard: try the others, but once. An order may be what killed it."""
        self._passed_over.add(self.target)
        await self.close()
        if not self._may_begin_again:
            raise Unavailable("the workers that were to speak this have died: try again soon", code="worker_died")
        self._may_begin_again = False
        await self.begin()

    async def close(self) -> None:
        """Give back the slot and the permits."""
        await self._held.aclose()
        for target in list(self._reserved):
            self._release(target)

    def _reserve(self, *, only_free: bool = False) -> int | None:
        passed_over = self._passed_over | self._reserved
        target = self._pool.board.reserve(self._pool.index, self._order.permits, passed_over, only_free=only_free)
        if target is not None:
            self._reserved.add(target)
        return target

    def _release(self, target: int) -> None:
        if target in self._reserved:
            self._reserved.discard(target)
            self._pool.board.release(self._pool.index, target, self._order.permits)

    async def _ask(self, target: int) -> None:
        """Wait for a slot of a worker on which permits are reserved, or of one that has a slot free meanwhile."""
        asking: int | None = target
        while asking is not None:
            self.target = asking
            asking = await self._wait_at(asking)

    async def _wait_at(self, target: int) -> int | None:
        """Enter the speech of one worker. Returns another one, reserved, if that has a free slot first."""
        held = AsyncExitStack()
        held.callback(self._release, target)
        self._admitted = False
        context = self._pool.source(target, self._order, self._deadline - time.monotonic(), self._on_admitted)
        entering = asyncio.create_task(held.enter_async_context(context))
        try:
            while not (await asyncio.wait({entering}, timeout=LOOK_AROUND_SECONDS))[0]:
                if self._admitted:
                    continue
                if (other := self._reserve(only_free=True)) is not None:
                    return other
                if time.monotonic() > self._deadline + _OVERTIME_SECONDS:
                    raise Busy("no worker gave a slot in time: try again soon")
            self._source = entering.result()
            self._held.push_async_exit(held.pop_all())
            return None
        finally:
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
            await held.aclose()  # nothing is left in it if it was entered

    def _on_admitted(self) -> None:
        self._admitted = True


class Speech:
    """Audio of whichever worker speaks: iterate it with `async for`, from one reader.

    Iterating raises ServiceError if it does not get to the end.
    engine_name, worker_id: of the worker that speaks; settled with the first chunk.
    """

    def __init__(self, pool: Pool, errand: Dispatch) -> None:
        self._pool = pool
        self._errand = errand
        self._began = False

    @property
    def engine_name(self) -> str:
        return self._errand.source.engine_name

    @property
    def worker_id(self) -> str:
        return self._pool.board.spots[self._errand.target].worker_id

    def __aiter__(self) -> Speech:
        return self

    async def __anext__(self) -> AudioChunk:
        try:
            chunk = await anext(self._errand.source)
        except ConnectionBroken:
            if self._began:
                raise EngineBroke("the worker that spoke has died", code="worker_died") from None
            await self._errand.begin_again()
            return await anext(self)
        self._began = True
        return chunk
