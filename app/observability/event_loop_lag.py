"""How hard a worker's own work is for it: processor time by part, and how late its event loop comes round.

The GPU's work is seen elsewhere; this is the Python around it, which has to fit into one interpreter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from .shared_counters import OTHER, Counter, Histogram, SharedCounters

CPU = Counter(
    "csm_worker_cpu_seconds_total",
    "Processor time of all workers: the event loop with sockets and routes, encoding and effects, the engine's thread.",
    {"part": ("event_loop", "encoding", "engine", OTHER)},
)
LOOP_LAG = Histogram(
    "csm_event_loop_lag_seconds",
    "How late the event loop does what is due, looked at ten times a second.",
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)

LOOK_SECONDS = 0.1
_LOOKS_A_COUNT = 10  # processor time is read once in so many looks: there is a file for each thread
_PARTS = (
    ("encode", "encoding"),
    *((each, "engine") for each in ("csm-engine", "fake-engine", "espeak-ng")),
)
_TASKS = Path("/proc/self/task")


class EventLoopMonitor:
    """Watches the event loop and the threads of this process. tally, row: where it counts."""

    def __init__(self, counters: SharedCounters, row: int = 0) -> None:
        self._tally, self._row = counters, row
        self._seen: dict[int, float] = {}  # seconds by native thread id
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the event loop that this is called on."""
        self._watching = asyncio.create_task(self._watch(threading.get_native_id()))

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self, loop_id: int) -> None:
        looks = 0
        while True:
            due = time.monotonic() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self._tally.observe(self._row, LOOP_LAG, max(time.monotonic() - due, 0.0))
            looks += 1
            if looks % _LOOKS_A_COUNT == 0:
                self.count(loop_id)

    def count(self, loop_id: int) -> None:
        """Add what each thread has used since the last count. loop_id: the native id of the event loop's thread."""
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        used = {task: seconds_of(task) for task in map(int, (each.name for each in _TASKS.iterdir()))}
        for task, seconds in used.items():
            part = "event_loop" if task == loop_id else part_of(names.get(task, ""))
            self._tally.add(self._row, CPU, max(seconds - self._seen.get(task, 0.0), 0.0), part=part)
        self._seen = used


def part_of(thread: str) -> str:
    """Which part of the work a thread of that name does."""
    return next((part for prefix, part in _PARTS if thread.startswith(prefix)), OTHER)


def seconds_of(task: int) -> float:
    """Processor time of a thread of this process so far; 0 if it has just ended, or the kernel does not tell."""
    try:
        return int((_TASKS / str(task) / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
