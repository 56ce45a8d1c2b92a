"""Kills workers whose process is stopped (SIGSTOP, or a debugger that was left), so that new ones take their places.

A stopped process keeps its sockets, its GPU memory and its clients, and the kernel tells nobody. gunicorn notices by
its own heartbeat, but only after its timeout, which has to be long enough for the import of torch.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import exit_reasons

_log = logging.getLogger(__name__)

KILL_AFTER_SECONDS = 8.0
_MAX_STEP_SECONDS = 2.0  # counted between two checks: the master may have been stopped, too


class StoppedWorkers:
    """Measures how long each worker has been stopped. Used in the master's loop, about once a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._checked_at = clock()
        self._stopped_seconds: dict[int, float] = {}  # by pid

    def kill(self, pids: Iterable[int]) -> list[int]:
        """Kill those of these processes that have been stopped for KILL_AFTER_SECONDS. Returns their pids."""
        now = self._clock()
        step, self._checked_at = min(now - self._checked_at, _MAX_STEP_SECONDS), now
        before, killed = self._stopped_seconds, []
        self._stopped_seconds = {pid: before[pid] + step if pid in before else 0.0 for pid in pids if is_stopped(pid)}
        for pid, seconds in self._stopped_seconds.items():
            if seconds >= KILL_AFTER_SECONDS:
                _log.critical("worker with pid %d has been stopped for %.0f s: it is killed and replaced", pid, seconds)
                exit_reasons.expect(pid, "its process was stopped (by SIGSTOP or a debugger) and was killed")
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        return killed


def install(arbiter: Any) -> None:
    """From now on, check a gunicorn master's workers whenever it looks for hung ones itself."""
    murder, stopped = arbiter.murder_workers, StoppedWorkers()

    def kill_stopped_and_murder() -> None:
        stopped.kill(list(arbiter.WORKERS))
        murder()

    arbiter.murder_workers = kill_stopped_and_murder


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped; not while a debugger holds it. False where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b") ")[2][:1] == b"T"  # the name in parentheses may hold anything
