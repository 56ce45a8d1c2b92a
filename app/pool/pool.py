"""This worker's part in the pool: what it tells of itself, and where the speech that it is asked for comes from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from ..errors import Unavailable
from ..schemas.speech import SpeechJob
from .dispatcher import Dispatch, Source, Speech
from .engine_host import EngineHost
from .local import speak_locally
from .remote import speak_remotely
from .speech_server import SpeechServer, socket_path
from .worker_registry import State, WorkerRegistry, pause_before

BEAT_SECONDS = 0.5


class Pool:
    """One of the workers, and its way to the others.

    index: its place on the board.
    sockets: a private folder with a socket for each worker; None where there is but one.
    wait: how long a request may wait for a slot, in seconds.
    """

    def __init__(self, board: WorkerRegistry, index: int, host: EngineHost, sockets: Path | None, wait: float) -> None:
        self.board = board
        self.index = index
        self.host = host
        self.wait = wait
        self._sockets = sockets
        self._door = None if sockets is None else SpeechServer(host, socket_path(sockets, index))
        self._beating: asyncio.Task[None] | None = None
        self._draining = False
        self._requests = 0

    # ---- its life

    async def start(self, on_ready: Callable[[], None]) -> None:
        """Let the others see this worker and come for speech, and begin to load. on_ready: called from a thread."""
        if self._door is not None:
            await self._door.open()
        record = self.board.record(self.index)
        self.host.on_change = self.host.parts.on_change = self.publish
        self.host.start(on_ready, pause_before(record))
        self.publish()
        self._beating = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Cut what is still spoken for others, and close the engine."""
        self.drain()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._door is not None:
            await self._door.close()
        await asyncio.to_thread(self.host.close)

    def drain(self) -> None:
        """No new speech by this worker; who waits for a slot of it is told so. What is being spoken goes on."""
        if not self._draining:
            self._draining = True
            self.publish()
            self.host.turn_away()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def busy(self) -> bool:
        """Speech is under way here, or on its way through here."""
        return self._requests > 0 or (self._door is not None and self._door.guests > 0)

    @property
    def others_ready(self) -> bool:
        return any(each.state == "ready" for index, each in enumerate(self.board.records()) if index != self.index)

    async def _beat(self) -> None:
        while True:
            self.publish()
            await asyncio.sleep(BEAT_SECONDS)

    def publish(self) -> None:
        """Tell the board how this worker is. From any thread."""
        status = self.host.status()
        state: State = "draining" if self._draining or status.state == "closed" else status.state
        capacity, active, queued = self.host.load()
        self.board.tell(
            self.index,
            state,
            progress=status.progress,
            doing=status.doing,
            error=status.error or "",
            engine=status.engine or "",
            model=status.model or "",
            capacity=capacity,
            active=active,
            queued=queued,
            parts=self.host.parts.statuses(),
        )

    def last_words(self, why: str) -> None:
        """Leave on the board why this process is about to end."""
        self.board.tell(self.index, "failed", error=why)

    # ---- speech

    @asynccontextmanager
    async def speak(self, job: SpeechJob) -> AsyncIterator[Speech]:
        """The speech of an order, by the worker with the least to do. Entering waits until it has its slot there.

        A worker that refuses, or dies before the first chunk, is passed over for the next.
        Raises Busy if all are full, Unavailable if none can speak, and what `speak_here` raises of the order itself.
        """
        self._requests += 1
        try:
            errand = Dispatch(self, job)
            try:
                await errand.begin()
                yield Speech(self, errand)
            finally:
                await errand.close()
        finally:
            self._requests -= 1

    def source(
        self, target: int, job: SpeechJob, wait: float, on_admitted: Callable[[], None]
    ) -> AbstractAsyncContextManager[Source]:
        if target == self.index or self._sockets is None:
            return speak_locally(self.host, job, wait=wait, on_admitted=on_admitted)
        return speak_remotely(socket_path(self._sockets, target), job, wait=wait, on_admitted=on_admitted)

    def nobody(self) -> Unavailable:
        """Why there is nobody to speak."""
        records = self.board.records()
        states = {each.state for each in records}
        if self._draining or (states & {"draining"} and states <= {"draining", "empty"}):
            return Unavailable("the service is shutting down: try again soon", code="draining")
        loading = next((each for each in records if each.state == "loading"), None)
        if loading is not None:
            how_far = f"{loading.progress:.0%}, {loading.doing}"
            return Unavailable(f"the engine is starting ({how_far}): try again soon", code="starting")
        if states != {"failed"}:
            return Unavailable("the engine is being started: try again soon", code="starting")
        reasons = "; ".join(dict.fromkeys(each.error for each in records))
        return Unavailable(f"no engine can speak: {reasons}", code="engine_failed")
