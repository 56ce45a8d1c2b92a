from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator

import pytest

from app.pool import master as master_module
from app.pool.assignment import WorkerAssignment
from app.pool.master import (
    IMPORTING,
    LONGEST_BOOT_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    STEADY_SECONDS,
    Master,
    here,
)
from app.pool.worker_registry import State

Patch = pytest.MonkeyPatch
PLACES = [WorkerAssignment(index, str(index)) for index in range(2)]


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master(PLACES)
    made.open()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _this_process_has_no_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_module, "_here", None)


class Worker:
    """As much of a gunicorn worker as a seat takes."""

    def __init__(self) -> None:
        self.ppid = os.getppid()
        self.notified = 0
        self.on_notify: Callable[[], None] = lambda: None

    def init_signals(self) -> None:
        pass

    def notify(self) -> None:
        self.notified += 1
        self.on_notify()


def test_each_worker_has_a_place_of_its_own(master: Master) -> None:
    assert [master.assign(), master.assign(), master.assign()] == [0, 1, None]
    seat = master.seat(1, Worker())
    assert (seat.index, seat.place, seat.sockets) == (1, PLACES[1], master.sockets)
    assert here() is seat
    assert master.registry.record(1).pid == os.getpid()


def test_a_spare_waits_until_a_place_is_free(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_module, "_SPARE_LOOKS_EVERY", 0.001)
    assert [master.assign(), master.assign()] == [0, 1]
    spare = Worker()
    spare.on_notify = lambda: master.registry.vacate(1) if spare.notified == 3 else None
    assert master.seat(None, spare).place == PLACES[1]
    assert spare.notified == 3
    master.bury(None, os.getpid())  # the master knows it by its process only
    assert master.assign() == 1


def crash(master: Master, pid: int = 77) -> float:
    """A worker comes and dies. Returns the pause of its successor."""
    index = master.assign()
    assert index is not None
    master.registry.set_pid(index, pid)
    master.bury(index, pid)
    return master.registry.record(index).retry_at - time.monotonic()


def test_each_crash_in_a_row_doubles_the_pause(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    master.registry.update(1, "loading")  # another worker, which may yet be ready
    pauses = [crash(master) for _ in range(12)]
    assert pauses[:4] == pytest.approx([0.5, 1, 2, 4], abs=0.2)
    assert max(pauses) <= LONGEST_PAUSE_SECONDS
    assert master.registry.record(0).failures == 12
    assert "worker 0 (pid 77) has crashed (its process died)" in caplog.text


def fail(master: Master, index: int, reason: str, *, doing: str = "", state: State = "loading") -> None:
    """A worker comes into a place, says what goes wrong with it, and dies."""
    assert master.assign() == index
    master.registry.set_pid(index, 77)
    master.registry.update(index, state, doing=doing, error=reason)
    master.bury(index, 77)


def test_a_service_that_fails_three_times_in_the_same_way_has_no_hope() -> None:
    master = Master(PLACES[:1])
    for seconds in (600, 601):
        fail(master, 0, f"loading has got nowhere for {seconds} s")
        assert master.hopeless() is None
    fail(master, 0, "loading has got nowhere for 600 s")
    assert master.hopeless() == "loading has got nowhere for 600 s, 3 times in a row"


def test_failures_of_different_kinds_are_tried_on() -> None:
    master = Master(PLACES[:1])
    for reason in ("out of memory", "no such file", "out of memory", "out of memory"):
        fail(master, 0, reason)
        assert master.hopeless() is None
    fail(master, 0, "out of memory")
    assert master.hopeless() == "out of memory, 3 times in a row"


def test_an_application_that_cannot_be_imported_is_tried_once() -> None:
    master = Master(PLACES[:1])
    fail(master, 0, "ModuleNotFoundError: No module named 'x'", doing=IMPORTING, state="starting")
    assert master.hopeless() == "ModuleNotFoundError: No module named 'x'"


def test_there_is_hope_while_another_worker_loads(master: Master) -> None:
    master.registry.update(1, "loading")
    for _ in range(5):
        fail(master, 0, "out of memory")
        assert master.hopeless() is None
    master.registry.vacate(1)
    assert master.hopeless() == "out of memory, 5 times in a row"


def test_there_is_hope_while_another_worker_tells_why_its_engine_cannot_load(master: Master) -> None:
    master.registry.update(1, "failed", error="no such checkpoint")
    for _ in range(5):
        fail(master, 0, "out of memory")
    assert master.hopeless() is None


def test_all_places_have_to_fail_and_every_reason_is_told(master: Master) -> None:
    assert [master.assign(), master.assign()] == [0, 1]
    for index in (0, 1, 0, 1, 0, 1):
        assert master.hopeless() is None
        master.registry.update(index, "loading", error=f"GPU {index} is lost")
        master.bury(index, master.registry.record(index).pid)
        assert master.registry.claim(77) == index
    assert master.hopeless() == "GPU 0 is lost, 3 times in a row; GPU 1 is lost, 3 times in a row"


@pytest.mark.parametrize("left", [False, True])
def test_a_service_that_was_ready_once_never_ends_by_itself(master: Master, left: bool) -> None:
    assert [master.assign(), master.assign()] == [0, 1]
    master.registry.update(1, "ready", capacity=1)
    if left:
        master.registry.update(1, "draining")
        master.bury(1, master.registry.record(1).pid)
    for _ in range(5):
        master.registry.update(0, "loading", error="out of memory")
        master.bury(0, master.registry.record(0).pid)
        assert master.assign() == 0
    assert master.hopeless() is None


def test_the_ending_of_a_process_stands_in_for_its_own_words(master: Master) -> None:
    assert master.assign() == 0
    master.registry.update(0, "loading", doing="reading weights", error="")
    master.bury(0, master.registry.record(0).pid, "its process was ended by SIGSEGV")
    assert master.registry.record(0).error == "its process was ended by SIGSEGV while reading weights"


def test_a_worker_waits_before_it_boots_where_the_last_one_could_not(master: Master, monkeypatch: Patch) -> None:
    fail(master, 0, "RuntimeError: broken", state="starting")
    pause = master.registry.record(0).retry_at - time.monotonic()
    assert 0 < pause <= LONGEST_BOOT_PAUSE_SECONDS
    worker, seen, begun = Worker(), [], time.monotonic()
    worker.on_notify = lambda: seen.append(master.registry.record(0).state)
    monkeypatch.setattr(master_module, "_SPARE_LOOKS_EVERY", 0.01)
    assert master.assign() == 0
    master.seat(0, worker)
    assert time.monotonic() - begun >= pause - 0.01
    assert set(seen) == {"restarting"}
    assert (master.registry.record(0).state, master.registry.record(0).error) == ("starting", "")


def test_a_worker_whose_predecessor_had_booted_boots_at_once(master: Master) -> None:
    fail(master, 0, "out of memory")
    worker = Worker()
    assert master.assign() == 0
    master.seat(0, worker)
    assert worker.notified == 0  # its application keeps the pause, and answers /health meanwhile


def test_who_ends_while_it_waits_has_not_crashed_once_more(master: Master) -> None:
    index = master.assign()
    assert index == 0
    master.registry.update(0, "loading")
    master.bury(0, master.registry.record(0).pid)
    crashed = master.registry.record(0)
    assert master.assign() == 0
    master.registry.update(0, "restarting")
    master.bury(0, master.registry.record(0).pid)
    again = master.registry.record(0)
    assert (again.failures, again.retry_at) == (crashed.failures, crashed.retry_at) == (1, crashed.retry_at)
    assert master.assign() == 0
    master.bury(0, master.registry.record(0).pid)  # this one died before it could wait: forking goes no faster for it
    assert master.registry.record(0).failures == 2


def test_who_was_ready_for_long_starts_anew(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    crash(master)
    assert master.assign() == 0
    master.registry.set_pid(0, 78)
    master.registry.update(0, "ready", capacity=1)
    later = time.monotonic() + STEADY_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    master.bury(0, 78)
    assert master.registry.record(0).failures == 1


def test_who_left_in_order_has_not_crashed(master: Master) -> None:
    assert master.assign() == 0
    master.registry.set_pid(0, 79)
    master.registry.update(0, "draining")
    master.bury(0, 79)
    record = master.registry.record(0)
    assert (record.state, record.failures, record.retry_at) == ("empty", 0, 0.0)


def test_a_fork_that_never_arrived_gives_its_place_back(master: Master) -> None:
    assert master.assign() == 0
    master.bury(0, 80)
    assert master.assign() == 0


def test_the_sockets_lie_where_nobody_else_can_reach(master: Master) -> None:
    assert master.sockets is not None
    assert stat.S_IMODE(master.sockets.stat().st_mode) == 0o700
    assert len(str(master.sockets)) < 90
    folder = master.sockets
    master.close()
    assert not folder.exists()


def test_one_worker_takes_no_socket_at_all() -> None:
    alone = Master(PLACES[:1])
    alone.open()
    assert alone.sockets is None
    alone.close()


def test_the_board_outlives_a_reload(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(master_module, "_master", None)
    first = master_module.current_master(PLACES)
    assert master_module.current_master(PLACES) is first
    with caplog.at_level(logging.WARNING):
        assert master_module.current_master(PLACES[:1]) is first
    assert "when the service is started anew" in caplog.text
