from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator

import pytest

from app.pool import master as master_module
from app.pool.master import LONGEST_PAUSE_SECONDS, STEADY_SECONDS, Master, here
from app.worker import Place

PLACES = [Place(index, str(index)) for index in range(2)]


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
    assert master.board.record(1).pid == os.getpid()


def test_a_spare_waits_until_a_place_is_free(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_module, "_SPARE_LOOKS_EVERY", 0.001)
    assert [master.assign(), master.assign()] == [0, 1]
    spare = Worker()
    spare.on_notify = lambda: master.board.vacate(1) if spare.notified == 3 else None
    assert master.seat(None, spare).place == PLACES[1]
    assert spare.notified == 3
    master.bury(None, os.getpid())  # the master knows it by its process only
    assert master.assign() == 1


def crash(master: Master, pid: int = 77) -> float:
    """A worker comes and dies. Returns the pause of its successor."""
    index = master.assign()
    assert index is not None
    master.board.arrive(index, pid)
    master.bury(index, pid)
    return master.board.record(index).retry_at - time.monotonic()


def test_each_crash_in_a_row_doubles_the_pause(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    master.board.tell(1, "loading")  # another worker, which may yet be ready
    pauses = [crash(master) for _ in range(12)]
    assert pauses[:4] == pytest.approx([0.5, 1, 2, 4], abs=0.2)
    assert max(pauses) <= LONGEST_PAUSE_SECONDS
    assert master.board.record(0).failures == 12
    assert "worker 0 (pid 77) has crashed (its process died)" in caplog.text


def test_who_ends_while_it_waits_has_not_crashed_once_more(master: Master) -> None:
    index = master.assign()
    assert index == 0
    master.board.tell(0, "loading")
    master.bury(0, master.board.record(0).pid)
    crashed = master.board.record(0)
    assert master.assign() == 0
    master.board.tell(0, "restarting")
    master.bury(0, master.board.record(0).pid)
    again = master.board.record(0)
    assert (again.failures, again.retry_at) == (crashed.failures, crashed.retry_at) == (1, crashed.retry_at)
    assert master.assign() == 0
    master.bury(0, master.board.record(0).pid)  # this one died before it could wait: forking goes no faster for it
    assert master.board.record(0).failures == 2


def test_who_was_ready_for_long_starts_anew(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    crash(master)
    assert master.assign() == 0
    master.board.arrive(0, 78)
    master.board.tell(0, "ready", capacity=1)
    later = time.monotonic() + STEADY_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    master.bury(0, 78)
    assert master.board.record(0).failures == 1


def test_who_left_in_order_has_not_crashed(master: Master) -> None:
    assert master.assign() == 0
    master.board.arrive(0, 79)
    master.board.tell(0, "draining")
    master.bury(0, 79)
    record = master.board.record(0)
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
    first = master_module.the_master(PLACES)
    assert master_module.the_master(PLACES) is first
    with caplog.at_level(logging.WARNING):
        assert master_module.the_master(PLACES[:1]) is first
    assert "when the service is started anew" in caplog.text
