from __future__ import annotations

import threading

import pytest

from app.pool import watchdog as watchdog_module
from app.pool.engine_host import HostStatus
from app.pool.watchdog import Watchdog, WorkerExit


class Host:
    """An engine host that is as it is told to be."""

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


def watch(host: Host, **more: object) -> Watchdog:
    return Watchdog(host, start_seconds=100, engine_seconds=10, **more)  # type: ignore[arg-type]


def verdict(host: Host) -> WorkerExit | None:
    seen = watch(host).look()
    return None if seen is None else seen[0]


def test_what_gets_on_is_left_alone(host: Host) -> None:
    assert verdict(host) is None
    host.stalled = 9
    assert verdict(host) is None
    host.state, host.stalled = HostStatus("loading"), 99
    assert verdict(host) is None
    host.state, host.stalled = HostStatus("restarting"), 1000
    assert verdict(host) is None


def test_a_load_that_failed_is_left_for_people(host: Host) -> None:
    host.state = HostStatus("failed", error="no such directory")
    assert verdict(host) is None


def test_what_hangs_or_broke_is_ended(host: Host) -> None:
    host.stalled = 11
    assert verdict(host) is WorkerExit.ENGINE_HUNG
    host.state, host.stalled = HostStatus("loading", doing="reading weights"), 101
    assert verdict(host) is WorkerExit.START_HUNG
    host.state, host.stalled, host.broken = HostStatus("failed", error="CUDA error"), 0, True
    assert verdict(host) is WorkerExit.ENGINE_BROKE


def test_no_exit_stops_the_master() -> None:
    assert not {3, 4} & {each.value for each in WorkerExit}


def test_it_ends_the_process_once_and_says_why_before(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "LOOK_SECONDS", 0.01)
    said: list[object] = []
    ended = threading.Event()

    def end(code: int) -> None:
        said.append(code)
        ended.set()

    dog = watch(host, last_words=said.append, end=end)
    dog.start()
    host.stalled = 50
    ended.wait(60)
    dog.stop()
    assert said == ["the engine has hung for 50 s with speech to make", WorkerExit.ENGINE_HUNG]
