from __future__ import annotations

import threading

import pytest

from app.pool import watchdog as watchdog_module
from app.pool.engine_host import HostStatus
from app.pool.watchdog import Watchdog, WorkerExit


class Host:
    """An engine host with a settable state."""

    def __init__(self) -> None:
        self.state = HostStatus("ready")
        self.stalled = 0.0
        self.broken = False

    def status(self) -> HostStatus:
        return self.state

    def stalled_seconds(self) -> float:
        return self.stalled


@pytest.fixture
def host() -> Host:
    return Host()


def watchdog_of(host: Host, **more: object) -> Watchdog:
    return Watchdog(host, start_seconds=100, engine_seconds=10, **more)  # type: ignore[arg-type]


def exit_status(host: Host) -> WorkerExit | None:
    failure = watchdog_of(host).check()
    return None if failure is None else failure[0]


def test_progress_is_left_alone(host: Host) -> None:
    assert exit_status(host) is None
    host.stalled = 9
    assert exit_status(host) is None
    host.state, host.stalled = HostStatus("loading"), 99
    assert exit_status(host) is None
    host.state, host.stalled = HostStatus("restarting"), 1000
    assert exit_status(host) is None


def test_an_engine_that_failed_to_load_does_not_end_the_worker(host: Host) -> None:
    host.state = HostStatus("failed", error="no such directory")
    assert exit_status(host) is None


def test_a_hung_or_broken_engine_ends_the_worker(host: Host) -> None:
    host.stalled = 11
    assert exit_status(host) is WorkerExit.ENGINE_HUNG
    host.state, host.stalled = HostStatus("loading", doing="reading weights"), 101
    assert exit_status(host) is WorkerExit.START_HUNG
    host.state, host.stalled, host.broken = HostStatus("failed", error="CUDA error"), 0, True
    assert exit_status(host) is WorkerExit.ENGINE_BROKE


def test_no_exit_status_stops_the_master() -> None:
    assert not {3, 4} & {each.value for each in WorkerExit}


def test_the_reason_is_reported_before_the_process_exits_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "CHECK_SECONDS", 0.01)
    calls: list[object] = []
    ended = threading.Event()

    def exit_process(code: int) -> None:
        calls.append(code)
        ended.set()

    watchdog = watchdog_of(host, report_failure=calls.append, exit_process=exit_process)
    watchdog.start()
    host.stalled = 50
    ended.wait(60)
    watchdog.stop()
    assert calls == ["the engine has hung for 50 s with requests in progress", WorkerExit.ENGINE_HUNG]
