from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.observability.components import COMPONENTS, ComponentStatus
from app.pool.assignment import WorkerAssignment
from app.pool.worker_registry import (
    FAILED_AFTER,
    LATE_SECONDS,
    PENDING_PID,
    STALE_SECONDS,
    WorkerRegistry,
    restart_delay,
)

# Newer Pythons warn of any fork beside threads, which other tests may have left; what is forked here uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
fork = multiprocessing.get_context("fork")


@pytest.fixture
def registry() -> WorkerRegistry:
    """Three workers; the first two are ready with four slots each."""
    registry = WorkerRegistry([WorkerAssignment(index, str(index)) for index in range(3)])
    for index in range(2):
        assert registry.claim(100 + index) == index
        registry.update(index, "ready", engine="csm", capacity=4, progress=1.0)
    return registry


def in_a_fork(work: object) -> None:
    process = fork.Process(target=work)  # type: ignore[arg-type]
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_an_update_is_visible_to_all_processes(registry: WorkerRegistry) -> None:
    in_a_fork(lambda: registry.update(1, "failed", error="no memory", progress=0.25, doing="reading weights"))
    record = registry.records()[1]
    assert (record.worker_id, record.unit, record.gpu, record.pid) == ("1", "gpu_1", "1", 101)
    assert (record.state, record.error, record.progress, record.doing) == (
        "failed",
        "no memory",
        0.25,
        "reading weights",
    )
    assert [each.state for each in registry.records()] == ["ready", "failed", "empty"]


def test_long_texts_are_cut_between_characters(registry: WorkerRegistry) -> None:
    registry.update(0, "failed", error="ä" * 1000, doing="x" * 200)
    record = registry.record(0)
    assert set(record.error) == {"ä"}
    assert set(record.doing) == {"x"}


def test_component_states_are_kept_until_the_worker_is_vacated(registry: WorkerRegistry) -> None:
    assert {each.state for each in registry.record(0).components.values()} == {"unchecked"}
    written = {**dict.fromkeys(COMPONENTS, ComponentStatus("ok")), "encoders": ComponentStatus("failed", "ä" * 1000)}
    in_a_fork(lambda: registry.update(0, "ready", components=written))
    registry.update(0, "ready")  # without components
    read = registry.record(0).components
    assert {name: each.state for name, each in read.items()} == {name: each.state for name, each in written.items()}
    assert read["encoders"].error == "ä" * 127
    assert read["voice_decoder"].error == ""
    registry.vacate(0)
    assert {each.state for each in registry.record(0).components.values()} == {"unchecked"}


def test_an_index_is_claimed_once_and_again_after_it_is_vacated(registry: WorkerRegistry) -> None:
    assert registry.claim(PENDING_PID) == 2
    assert registry.record(2).pid == 0  # not forked yet
    assert registry.claim(7) is None
    registry.set_pid(2, 55)
    assert registry.record(2).pid == 55
    registry.vacate(1)
    assert registry.claim(8) == 1


def test_crashes_are_kept_for_the_next_worker(registry: WorkerRegistry) -> None:
    registry.vacate(0, failures=2, retry_at=time.monotonic() + 60, error="exit")
    assert registry.claim(7) == 0
    pause = restart_delay(registry.record(0))
    assert pause is not None
    assert (pause.state, pause.error) == ("restarting", "exit")
    assert 0 < pause.seconds <= 60
    registry.vacate(0, failures=FAILED_AFTER, retry_at=time.monotonic() + 60, error="exit")
    again = restart_delay(registry.record(0))
    assert again is not None
    assert again.state == "failed"
    assert restart_delay(registry.record(1)) is None


def test_permits_are_counted_by_their_holder(registry: WorkerRegistry) -> None:
    assert [registry.reserve(0, 1) for _ in range(4)] == [0, 1, 0, 1]
    assert [each.load for each in registry.records()] == [2, 2, 0]
    registry.release(0, 1, 1)
    assert registry.reserve(1, 1) == 1
    registry.vacate(0)  # with all permits that it held
    assert [each.load for each in registry.records()] == [0, 1, 0]
    registry.release(0, 0, 1)  # by a process that does not know that it is gone
    assert registry.record(0).load == 0


def test_only_who_is_ready_and_was_heard_of_is_chosen(
    registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.reserve(0, 1, {0, 1}) is None
    registry.update(0, "draining", capacity=4)
    assert registry.reserve(0, 1) == 1
    later = time.monotonic() + 2 * STALE_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert registry.reserve(0, 1) is None
    assert registry.reserve(1, 1) == 1  # its own heartbeat does not matter


def test_a_waiting_request_moves_only_where_it_crowds_nobody_unless_its_worker_is_late(
    registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [registry.reserve(2, 1) for _ in range(2)] == [0, 1]
    assert registry.reserve(2, 1, {0}, instead_of=0) is None  # one each: worker 0 is slow, not full
    later = time.monotonic() + 2 * LATE_SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: later)
        assert registry.reserve(2, 1, {0}, instead_of=0) == 1
    registry.release(2, 1, 2)
    assert registry.reserve(2, 1, {0}, instead_of=0) == 1  # where it is alone
    for _ in range(4):
        registry.reserve(2, 1, {1})
    assert registry.reserve(2, 3, {0}, instead_of=0) == 1  # from a queue to the last free slots
    assert registry.reserve(2, 1, {0}, instead_of=0) is None


def test_concurrent_reservations_are_all_counted(registry: WorkerRegistry) -> None:
    def reserve_often() -> None:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: registry.reserve(0, 1), range(100)))

    processes = [fork.Process(target=reserve_often) for _ in range(4)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    assert [each.load for each in registry.records()] == [200, 200, 0]


def test_a_process_that_is_killed_frees_its_lock(registry: WorkerRegistry) -> None:
    holds = fork.Event()

    def hold_lock() -> None:
        with registry._lock.held():
            holds.set()
            threading.Event().wait(60)

    process = fork.Process(target=hold_lock)
    process.start()
    holds.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert registry.reserve(0, 1) is not None
    process.join(60)
