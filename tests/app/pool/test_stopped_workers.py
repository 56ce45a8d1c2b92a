from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import psutil
import pytest

from app.pool import exit_reasons
from app.pool.stopped_workers import KILL_AFTER_SECONDS, StoppedWorkers, install, is_stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
Process = subprocess.Popen[bytes]


@pytest.fixture
def process() -> Iterator[Process]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


@pytest.fixture
def stop(process: Process) -> Callable[[], None]:
    def wait_until_stopped() -> None:
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            pass

    return wait_until_stopped


def test_a_process_that_stays_stopped_is_killed(process: Process, stop: Callable[[], None]) -> None:
    now = [0.0]
    workers = StoppedWorkers(lambda: now[0])
    stop()
    assert is_stopped(process.pid)
    while now[0] < KILL_AFTER_SECONDS - 1:
        assert workers.kill([process.pid]) == []
        now[0] += 1
    while not workers.kill([process.pid]):
        now[0] += 1
    assert now[0] <= KILL_AFTER_SECONDS + 1
    assert process.wait(60) == -signal.SIGKILL
    assert "was stopped" in exit_reasons.exit_reason(process.pid)
    assert workers.kill([process.pid]) == []


def test_one_that_continues_is_not(process: Process, stop: Callable[[], None]) -> None:
    now = [0.0]
    workers = StoppedWorkers(lambda: now[0])
    for _ in range(5):
        stop()
        for _ in range(5):
            now[0] += 1
            assert workers.kill([process.pid]) == []
        process.send_signal(signal.SIGCONT)
        while is_stopped(process.pid):
            pass
        now[0] += 1
        assert workers.kill([process.pid]) == []
    assert process.poll() is None


def test_a_pause_of_the_master_does_not_count(process: Process, stop: Callable[[], None]) -> None:
    now = [0.0]
    workers = StoppedWorkers(lambda: now[0])
    stop()
    assert workers.kill([process.pid]) == []
    now[0] += 3600  # both were stopped, from a terminal
    assert workers.kill([process.pid]) == []


def test_the_master_checks_its_workers(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(StoppedWorkers, "kill", lambda self, pids: calls.append(pids))
    arbiter = SimpleNamespace(WORKERS={process.pid: None}, murder_workers=lambda: calls.append("gunicorn's own"))
    install(arbiter)
    arbiter.murder_workers()
    assert calls == [[process.pid], "gunicorn's own"]
    assert not is_stopped(2**22 + 1)  # no such process
