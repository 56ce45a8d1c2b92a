"""Where work is done that would hold up the event loop: encoding, effects, large messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from engine import LoopBridge, MachineLimits, running_loop_bridge

_T = TypeVar("_T")


class Workshop:
    """Threads for short pieces of work, thousands a second. What is done comes back in batches: see `LoopBridge`.

    An executor of the standard library does the same, and takes three times as long around each piece.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._name = threads, name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any], LoopBridge]] = SimpleQueue()
        self._starting = threading.Lock()
        self._started = False

    async def do(self, work: Callable[[], _T]) -> _T:
        """Do some milliseconds of work in a thread. Who is cancelled does not wait for it."""
        if not self._started:
            self._start()
        bridge = running_loop_bridge()
        future: asyncio.Future[_T] = bridge.loop.create_future()
        self._jobs.put((work, future, bridge))
        return await future

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                self._started = True
                for number in range(self._threads):
                    threading.Thread(target=self._run, name=f"{self._name}_{number}", daemon=True).start()

    def _run(self) -> None:
        while True:
            work, future, bridge = self._jobs.get()
            if not future.cancelled():
                try:
                    settle = partial(_give, future, work())
                except Exception as error:
                    settle = partial(_fail, future, error)
                bridge.call(settle)
            del work, future, bridge  # else the last answer lives on while this waits for the next


def _give(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


THREADS = min(8, MachineLimits().cores().threads())  # more would not run at once

_workshop = Workshop(THREADS, "workshop")

in_thread = _workshop.do
