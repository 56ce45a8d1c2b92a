from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from app.pool import exit_reasons


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit(70)", "its process exited with status 70"),
        ("", "its process exited with status 0"),
        (f"import os; os.kill(os.getpid(), {signal.SIGTERM:d})", "its process was ended by SIGTERM"),
        (
            f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})",
            "its process was ended by SIGKILL (the machine may be out of memory)",
        ),
    ],
)
def test_the_reason_of_an_exited_child_is_recorded_without_reaping_it(program: str, reason: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", program])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    exit_reasons.record_exits([child.pid])
    assert child.wait(timeout=30) is not None
    assert exit_reasons.exit_reason(child.pid) == reason
    assert exit_reasons.exit_reason(child.pid) == "its process died"


def test_a_running_or_reaped_child_has_no_reason() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    exit_reasons.record_exits([child.pid])
    child.communicate(b"\n", timeout=30)
    exit_reasons.record_exits([child.pid])
    assert exit_reasons.exit_reason(child.pid) == "its process died"


def test_an_arbiter_records_exits_before_it_reaps() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(71)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    arbiter = SimpleNamespace(WORKERS={child.pid: None}, reap_workers=lambda: child.wait(timeout=30))
    exit_reasons.install(arbiter)
    arbiter.reap_workers()
    assert exit_reasons.exit_reason(child.pid) == "its process exited with status 71"
