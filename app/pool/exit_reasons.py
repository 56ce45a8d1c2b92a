"""Exit reasons of worker processes. gunicorn reaps them and passes their status to no hook."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

_reasons: dict[int, str] = {}  # by the pid of an exited process; each is read once


def install(arbiter: Any) -> None:
    """From now on, record the exit reasons of a gunicorn master's workers before it reaps them."""
    reap = arbiter.reap_workers

    def record_and_reap() -> None:
        record_exits(arbiter.WORKERS)
        reap()

    arbiter.reap_workers = record_and_reap


def record_exits(pids: Iterable[int]) -> None:
    """Record the reason of each of these children that has exited, without reaping it."""
    for pid in pids:
        try:
            status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            continue
        if status is not None:
            _reasons.setdefault(pid, _describe(status.si_code, status.si_status))


def expect(pid: int, reason: str) -> None:
    """Record why a process is about to be killed."""
    _reasons[pid] = reason


def exit_reason(pid: int) -> str:
    """The recorded reason, as a phrase; a general one if the process exited between two recordings."""
    return _reasons.pop(pid, "its process died")


def _describe(code: int, status: int) -> str:
    if code == os.CLD_EXITED:
        return f"its process exited with status {status}"
    name = signal.Signals(status).name if status in set(signal.Signals) else f"signal {status}"
    hint = " (the machine may be out of memory)" if status == signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"
