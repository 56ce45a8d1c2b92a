"""Where work is done that would hold up the event loop: encoding, effects, large messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from engine import LoopBridge, MachineLimits, running_loop_bridge

from ..errors import ComponentFailed
from ..observability.components import Report, report_nothing

_T = TypeVar("_T")


class ThreadPool:
    """Threads for short pieces of work, thousands a second. What is done comes back in batches: see `LoopBridge`.

    An executor of the standard library does the same, and takes three times as long around each piece.

    on_state: told when threads cannot be started, and when they can again.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._name = threads, name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any], LoopBridge]] = SimpleQueue()
        self._starting = threading.Lock()
        self._alive = 0
        self._failing = False
        self.on_state: Report = report_nothing

    async def do(self, work: Callable[[], _T]) -> _T:
        """Do some milliseconds of work in a thread. Who is cancelled does not wait for it.

        Raises ComponentFailed where not one thread can be started.
        """
        if self._alive < self._threads and not (self._alive and self._failing):
            self.start()
        bridge = running_loop_bridge()
        future: asyncio.Future[_T] = bridge.loop.create_future()
        self._jobs.put((work, future, bridge))
        return await future

    def start(self) -> None:
        """Start the threads that do not run yet. Raises ComponentFailed where not one runs in the end."""
        with self._starting:
            error: RuntimeError | None = None
            for number in range(self._alive, self._threads):
                thread = threading.Thread(target=self._run, name=f"{self._name}_{number}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as refused:
                    error = refused
                    break
                self._alive += 1
            alive = self._alive
        if error is None:
            self.worked()
            return
        failure = self.failed(error)
        if not alive:  # fewer threads are slower, and as good
            raise failure

    def worked(self) -> None:
        """Threads can be started."""
        self._failing = False
        self.on_state(None, "")

    def failed(self, error: RuntimeError) -> ComponentFailed:
        """Threads cannot be started: what to answer, once it has been reported."""
        self._failing = True
        self.on_state(f"no thread can be started: {error}", "raise the limit on threads or processes, or free memory")
        failure = ComponentFailed(
            "this service cannot start another thread: its operator finds the reason in its log and in /health",
            code="threads_failed",
        )
        failure.__cause__ = error
        return failure

    async def in_pool(self, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        """Do longer work in an executor of the standard library. Raises ComponentFailed if that can start no thread."""
        try:
            future = asyncio.get_running_loop().run_in_executor(pool, work)
        except RuntimeError as error:
            raise self.failed(error) from error
        if self._failing:
            self._try_again()
        return await future

    def _try_again(self) -> None:
        try:
            threading.Thread(target=lambda: None, name=f"{self._name}_probe", daemon=True).start()
        except RuntimeError:
            return
        self.worked()

    def _run(self) -> None:
        while True:
            work, future, bridge = self._jobs.get()
            if not future.cancelled():
                try:
                    settle = partial(_give, future, work())
                except BaseException as error:  # even what is to end a process: whoever waits must hear of it
                    settle = partial(_fail, future, error)
                bridge.call(settle)
            del work, future, bridge  # else the last answer lives on while this waits for the next


def _give(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        if isinstance(error, StopIteration) or not isinstance(error, Exception):  # no future takes those
            error = RuntimeError(f"work in a thread ended with {error!r}")
        future.set_exception(error)


THREADS = min(8, MachineLimits().cores().threads())  # more would not run at once

workshop = ThreadPool(THREADS, "workshop")

run_in_thread = workshop.do
in_pool = workshop.in_pool
