"""How workers ended: gunicorn logs the status of a process and tells it to no hook."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

_endings: dict[int, str] = {}  # of processes that are dead; each is asked for once


def watch(arbiter: Any) -> None:
    """Look at the workers of a gunicorn master before it reaps them, from now on."""
    reap = arbiter.reap_workers

    def look_and_reap() -> None:
        look(arbiter.WORKERS)
        reap()

    arbiter.reap_workers = look_and_reap


def look(pids: Iterable[int]) -> None:
    """Note how each of these children ended, if it did, and leave it to be reaped."""
    for pid in pids:
        try:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            continue
        if ended is not None:
            _endings[pid] = _described(ended.si_code, ended.si_status)


def of(pid: int) -> str:
    """How a process ended, for people. It died between two looks if nothing more is known."""
    return _endings.pop(pid, "its process died")


def _described(code: int, status: int) -> str:
    if code == os.CLD_EXITED:
        return f"its process exited with status {status}"
    name = signal.Signals(status).name if status in set(signal.Signals) else f"signal {status}"
    hint = " (the machine may be out of memory)" if status == signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"
