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
    MAX_BOOT_DELAY_SECONDS,
    MAX_DELAY_SECONDS,
    STABLE_SECONDS,
    Master,
    current_context,
)
from app.pool.worker_registry import State

Patch = pytest.MonkeyPatch
ASSIGNMENTS = [WorkerAssignment(index, str(index)) for index in range(2)]


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master(ASSIGNMENTS)
    made.open()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_current_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_module, "_current_context", None)


class Worker:
    """The part of a gunicorn worker that `Master.join` uses."""

    def __init__(self) -> None:
        self.ppid = os.getppid()
        self.notified = 0
        self.on_notify: Callable[[], None] = lambda: None

    def init_signals(self) -> None:
        pass

    def notify(self) -> None:
        self.notified += 1
        self.on_notify()


def test_each_worker_gets_its_own_assignment(master: Master) -> None:
    assert [master.assign(), master.assign(), master.assign()] == [0, 1, None]
    context = master.join(1, Worker())
    assert (context.index, context.assignment, context.sockets) == (1, ASSIGNMENTS[1], master.sockets)
    assert current_context() is context
    assert master.registry.record(1).pid == os.getpid()


def test_a_spare_waits_until_a_worker_exits(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_module, "_WAIT_SECONDS", 0.001)
    assert [master.assign(), master.assign()] == [0, 1]
    spare = Worker()
    spare.on_notify = lambda: master.registry.vacate(1) if spare.notified == 3 else None
    assert master.join(None, spare).assignment == ASSIGNMENTS[1]
    assert spare.notified == 3
    master.record_exit(None, os.getpid())  # the master knows only its pid
    assert master.assign() == 1


def crash(master: Master, pid: int = 77) -> float:
    """A worker starts and dies. Returns the restart delay in seconds."""
    index = master.assign()
    assert index is not None
    master.registry.set_pid(index, pid)
    master.record_exit(index, pid)
    return master.registry.record(index).retry_at - time.monotonic()


def test_each_consecutive_crash_doubles_the_delay(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    master.registry.update(1, "loading")  # another worker, which may still become ready
    delays = [crash(master) for _ in range(12)]
    assert delays[:4] == pytest.approx([0.5, 1, 2, 4], abs=0.2)
    assert max(delays) <= MAX_DELAY_SECONDS
    assert master.registry.record(0).failures == 12
    assert "worker 0 (pid 77) crashed (its process died)" in caplog.text


def fail(master: Master, index: int, reason: str, *, doing: str = "", state: State = "loading") -> None:
    """A worker starts, records an error, and dies."""
    assert master.assign() == index
    master.registry.set_pid(index, 77)
    master.registry.update(index, state, doing=doing, error=reason)
    master.record_exit(index, 77)


def test_three_equal_failures_in_a_row_are_fatal() -> None:
    master = Master(ASSIGNMENTS[:1])
    for seconds in (600, 601):
        fail(master, 0, f"loading has made no progress for {seconds} s")
        assert master.fatal_error() is None
    fail(master, 0, "loading has made no progress for 600 s")
    assert master.fatal_error() == "loading has made no progress for 600 s, 3 times in a row"


def test_different_failures_are_retried() -> None:
    master = Master(ASSIGNMENTS[:1])
    for reason in ("out of memory", "no such file", "out of memory", "out of memory"):
        fail(master, 0, reason)
        assert master.fatal_error() is None
    fail(master, 0, "out of memory")
    assert master.fatal_error() == "out of memory, 3 times in a row"


def test_an_import_error_is_fatal_at_once() -> None:
    master = Master(ASSIGNMENTS[:1])
    fail(master, 0, "ModuleNotFoundError: No module named 'x'", doing=IMPORTING, state="starting")
    assert master.fatal_error() == "ModuleNotFoundError: No module named 'x'"


def test_failures_are_not_fatal_while_another_worker_loads(master: Master) -> None:
    master.registry.update(1, "loading")
    for _ in range(5):
        fail(master, 0, "out of memory")
        assert master.fatal_error() is None
    master.registry.vacate(1)
    assert master.fatal_error() == "out of memory, 5 times in a row"


def test_failures_are_not_fatal_while_another_worker_reports_a_failed_engine(master: Master) -> None:
    master.registry.update(1, "failed", error="no such checkpoint")
    for _ in range(5):
        fail(master, 0, "out of memory")
    assert master.fatal_error() is None


@pytest.mark.parametrize("failing", ["engine", "http"])
def test_engines_and_http_processes_fail_apart(failing: str) -> None:
    master = Master([WorkerAssignment(role="engine"), WorkerAssignment(1, role="http")])
    assert [master.assign(), master.assign()] == [0, 1]
    index, other = (0, 1) if failing == "engine" else (1, 0)
    master.registry.update(other, "ready")
    for _ in range(3):
        assert master.fatal_error() is None
        master.registry.update(index, "loading", error="it is lost")
        master.record_exit(index, master.registry.record(index).pid)
        assert master.registry.claim(77) == index
    assert master.fatal_error() == "it is lost, 3 times in a row"


def test_an_http_process_that_crashed_is_restarted_at_once(caplog: pytest.LogCaptureFixture) -> None:
    master = Master([WorkerAssignment(role="engine"), WorkerAssignment(1, role="http")])
    assert [master.assign(), master.assign()] == [0, 1]
    master.registry.update(0, "ready")
    master.registry.update(1, "ready")
    master.record_exit(1, master.registry.record(1).pid)
    assert master.registry.record(1).retry_at <= time.monotonic()
    assert "worker http-0" in caplog.text


def test_a_fatal_error_needs_all_workers_to_fail_and_names_every_reason(master: Master) -> None:
    assert [master.assign(), master.assign()] == [0, 1]
    for index in (0, 1, 0, 1, 0, 1):
        assert master.fatal_error() is None
        master.registry.update(index, "loading", error=f"GPU {index} is lost")
        master.record_exit(index, master.registry.record(index).pid)
        assert master.registry.claim(77) == index
    assert master.fatal_error() == "GPU 0 is lost, 3 times in a row; GPU 1 is lost, 3 times in a row"


@pytest.mark.parametrize("left", [False, True])
def test_a_service_that_was_ready_never_has_a_fatal_error(master: Master, left: bool) -> None:
    assert [master.assign(), master.assign()] == [0, 1]
    master.registry.update(1, "ready", capacity=1)
    if left:
        master.registry.update(1, "draining")
        master.record_exit(1, master.registry.record(1).pid)
    for _ in range(5):
        master.registry.update(0, "loading", error="out of memory")
        master.record_exit(0, master.registry.record(0).pid)
        assert master.assign() == 0
    assert master.fatal_error() is None


def test_the_exit_reason_is_used_without_a_recorded_error(master: Master) -> None:
    assert master.assign() == 0
    master.registry.update(0, "loading", doing="reading weights", error="")
    master.record_exit(0, master.registry.record(0).pid, "its process was ended by SIGSEGV")
    assert master.registry.record(0).error == "its process was ended by SIGSEGV while reading weights"


def test_a_worker_waits_before_it_boots_if_the_last_one_could_not(master: Master, monkeypatch: Patch) -> None:
    fail(master, 0, "RuntimeError: broken", state="starting")
    delay = master.registry.record(0).retry_at - time.monotonic()
    assert 0 < delay <= MAX_BOOT_DELAY_SECONDS
    worker, seen, begun = Worker(), [], time.monotonic()
    worker.on_notify = lambda: seen.append(master.registry.record(0).state)
    monkeypatch.setattr(master_module, "_WAIT_SECONDS", 0.01)
    assert master.assign() == 0
    master.join(0, worker)
    assert time.monotonic() - begun >= delay - 0.01
    assert set(seen) == {"restarting"}
    assert (master.registry.record(0).state, master.registry.record(0).error) == ("starting", "")


def test_a_worker_boots_at_once_if_the_last_one_had_booted(master: Master) -> None:
    fail(master, 0, "out of memory")
    worker = Worker()
    assert master.assign() == 0
    master.join(0, worker)
    assert worker.notified == 0  # its application waits, and answers /health meanwhile


def test_an_exit_during_the_delay_is_no_further_crash(master: Master) -> None:
    index = master.assign()
    assert index == 0
    master.registry.update(0, "loading")
    master.record_exit(0, master.registry.record(0).pid)
    crashed = master.registry.record(0)
    assert master.assign() == 0
    master.registry.update(0, "restarting")
    master.record_exit(0, master.registry.record(0).pid)
    again = master.registry.record(0)
    assert (again.failures, again.retry_at) == (crashed.failures, crashed.retry_at) == (1, crashed.retry_at)
    assert master.assign() == 0
    master.record_exit(0, master.registry.record(0).pid)  # it died before it waited: a further crash
    assert master.registry.record(0).failures == 2


def test_a_crash_after_a_stable_run_is_the_first_again(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    crash(master)
    assert master.assign() == 0
    master.registry.set_pid(0, 78)
    master.registry.update(0, "ready", capacity=1)
    later = time.monotonic() + STABLE_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    master.record_exit(0, 78)
    assert master.registry.record(0).failures == 1


def test_a_drained_worker_has_not_crashed(master: Master) -> None:
    assert master.assign() == 0
    master.registry.set_pid(0, 79)
    master.registry.update(0, "draining")
    master.record_exit(0, 79)
    record = master.registry.record(0)
    assert (record.state, record.failures, record.retry_at) == ("empty", 0, 0.0)


def test_a_fork_that_died_at_once_frees_its_index(master: Master) -> None:
    assert master.assign() == 0
    master.record_exit(0, 80)
    assert master.assign() == 0


def test_the_folder_of_the_sockets_is_private(master: Master) -> None:
    assert master.sockets is not None
    assert stat.S_IMODE(master.sockets.stat().st_mode) == 0o700
    assert len(str(master.sockets)) < 90
    folder = master.sockets
    master.close()
    assert not folder.exists()


def test_a_single_worker_needs_no_sockets() -> None:
    single = Master(ASSIGNMENTS[:1])
    single.open()
    assert single.sockets is None
    single.close()


def test_the_master_outlives_a_reload(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(master_module, "_master", None)
    first = master_module.current_master(ASSIGNMENTS)
    assert master_module.current_master(ASSIGNMENTS) is first
    with caplog.at_level(logging.WARNING):
        assert master_module.current_master(ASSIGNMENTS[:1]) is first
    assert "restart the service to apply that" in caplog.text
