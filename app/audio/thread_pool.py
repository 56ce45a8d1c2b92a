"""Thread pool for work that would block the event loop: encoding, effects, large messages."""

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
    """Runs short tasks, thousands a second. Their results reach the event loop in batches: see `LoopBridge`.

    The standard library's executor does the same with three times the overhead per task.

    on_state: called when threads cannot be started, and when they can again.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._name = threads, name
        self._tasks: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any], LoopBridge]] = SimpleQueue()
        self._start_lock = threading.Lock()
        self._alive = 0
        self._failing = False
        self.on_state: Report = report_nothing

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run some milliseconds of work in a thread. A cancelled caller does not wait for the work to finish.

        Raises ComponentFailed if no thread can be started.
        """
        if self._alive < self._threads and not (self._alive and self._failing):
            self.start()
        bridge = running_loop_bridge()
        future: asyncio.Future[_T] = bridge.loop.create_future()
        self._tasks.put((work, future, bridge))
        return await future

    def start(self) -> None:
        """Start the threads that are not running. Raises ComponentFailed if none is running afterwards."""
        with self._start_lock:
            error: RuntimeError | None = None
            for number in range(self._alive, self._threads):
                thread = threading.Thread(target=self._run_tasks, name=f"{self._name}_{number}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as caught:
                    error = caught
                    break
                self._alive += 1
            alive = self._alive
        if error is None:
            self.report_ok()
            return
        failure = self.report_failure(error)
        if not alive:  # with fewer threads the pool is slower, and still works
            raise failure

    def report_ok(self) -> None:
        """Report that threads can be started."""
        self._failing = False
        self.on_state(None, "")

    def report_failure(self, error: RuntimeError) -> ComponentFailed:
        """Report that threads cannot be started. Returns the error to respond with."""
        self._failing = True
        self.on_state(f"no thread can be started: {error}", "raise the limit on threads or processes, or free memory")
        failure = ComponentFailed(
            "this service cannot start another thread: its operator finds the reason in its log and in /health",
            code="threads_failed",
        )
        failure.__cause__ = error
        return failure

    async def run_in_executor(self, executor: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        """Run longer work in an executor. Raises ComponentFailed if the executor cannot start a thread."""
        try:
            future = asyncio.get_running_loop().run_in_executor(executor, work)
        except RuntimeError as error:
            raise self.report_failure(error) from error
        if self._failing:
            self._probe()
        return await future

    def _probe(self) -> None:
        try:
            threading.Thread(target=lambda: None, name=f"{self._name}_probe", daemon=True).start()
        except RuntimeError:
            return
        self.report_ok()

    def _run_tasks(self) -> None:
        while True:
            work, future, bridge = self._tasks.get()
            if not future.cancelled():
                try:
                    settle = partial(_set_result, future, work())
                except BaseException as error:  # SystemExit too: the caller must not wait forever
                    settle = partial(_set_exception, future, error)
                bridge.call(settle)
            del work, future, bridge  # else the last result stays alive while this waits for the next task


def _set_result(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        if isinstance(error, StopIteration) or not isinstance(error, Exception):  # futures do not accept those
            error = RuntimeError(f"work in a thread ended with {error!r}")
        future.set_exception(error)


THREADS = min(8, MachineLimits().cores().threads())  # more would not run in parallel

thread_pool = ThreadPool(THREADS, "encode")

run_in_thread = thread_pool.run
run_in_executor = thread_pool.run_in_executor
