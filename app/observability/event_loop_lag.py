"""Event-loop lag and CPU time per kind of thread, exported as Prometheus metrics.

They show whether a worker's Python, which has one interpreter, limits it. The GPU's load is measured elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from .shared_counters import OTHER, Counter, Histogram, SharedCounters

CPU = Counter(
    "csm_worker_cpu_seconds_total",
    "CPU time of all workers: the event loop with sockets and routes, encoding and effects, the engine's thread.",
    {"part": ("event_loop", "encoding", "engine", OTHER)},
)
LOOP_LAG = Histogram(
    "csm_event_loop_lag_seconds",
    "How late the event loop runs a timer, measured ten times a second.",
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)

INTERVAL_SECONDS = 0.1
_INTERVALS_PER_COUNT = 10  # CPU time is read less often: it takes one file per thread
_PARTS = (
    ("encode", "encoding"),
    *((each, "engine") for each in ("csm-engine", "fake-engine", "kokoro", "espeak-ng")),
)
_TASKS = Path("/proc/self/task")


class EventLoopMonitor:
    """Measures the event loop and the threads of this process. counters, row: where it counts."""

    def __init__(self, counters: SharedCounters, row: int = 0) -> None:
        self._counters, self._row = counters, row
        self._last: dict[int, float] = {}  # seconds by native thread id
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Measure the running event loop."""
        self._task = asyncio.create_task(self._measure(threading.get_native_id()))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _measure(self, loop_id: int) -> None:
        intervals = 0
        while True:
            due = time.monotonic() + INTERVAL_SECONDS
            await asyncio.sleep(INTERVAL_SECONDS)
            self._counters.observe(self._row, LOOP_LAG, max(time.monotonic() - due, 0.0))
            intervals += 1
            if intervals % _INTERVALS_PER_COUNT == 0:
                self.count(loop_id)

    def count(self, loop_id: int) -> None:
        """Add the CPU time of each thread since the last count. loop_id: native id of the event loop's thread."""
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        used = {task: cpu_seconds(task) for task in map(int, (each.name for each in _TASKS.iterdir()))}
        for task, seconds in used.items():
            part = "event_loop" if task == loop_id else part_of(names.get(task, ""))
            self._counters.add(self._row, CPU, max(seconds - self._last.get(task, 0.0), 0.0), part=part)
        self._last = used


def part_of(thread: str) -> str:
    """The label of a thread, by its name."""
    return next((part for prefix, part in _PARTS if thread.startswith(prefix)), OTHER)


def cpu_seconds(task: int) -> float:
    """Total CPU time of a thread of this process; 0 if it has just ended or the kernel does not report it."""
    try:
        return int((_TASKS / str(task) / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
