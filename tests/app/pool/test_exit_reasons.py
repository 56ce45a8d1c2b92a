from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from app.pool import exit_reasons


@pytest.mark.parametrize(
    ("program", "told"),
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
def test_it_is_seen_how_a_child_ended_and_the_child_is_left_to_be_reaped(program: str, told: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", program])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    exit_reasons.look([child.pid])
    assert child.wait(timeout=30) is not None
    assert exit_reasons.of(child.pid) == told
    assert exit_reasons.of(child.pid) == "its process died"


def test_who_lives_or_is_reaped_has_no_ending() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    exit_reasons.look([child.pid])
    child.communicate(b"\n", timeout=30)
    exit_reasons.look([child.pid])
    assert exit_reasons.of(child.pid) == "its process died"


def test_a_master_looks_before_it_reaps() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(71)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    arbiter = SimpleNamespace(WORKERS={child.pid: None}, reap_workers=lambda: child.wait(timeout=30))
    exit_reasons.watch(arbiter)
    arbiter.reap_workers()
    assert exit_reasons.of(child.pid) == "its process exited with status 71"
