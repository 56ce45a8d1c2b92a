from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest

from app.access import shared_counts
from app.access.shared_counts import SharedCounts


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock, to be set."""
    clock = [100.0]
    monkeypatch.setattr(shared_counts.time, "monotonic", lambda: clock[0])
    yield clock
    monkeypatch.undo()


def test_a_count_ends_some_seconds_after_its_last_change(now: list[float]) -> None:
    counts = SharedCounts(64)
    assert counts.get("a") == 0
    assert counts.add("a", 2, 10) == 2
    now[0] += 6
    assert counts.add("a", 3, 10) == 5
    now[0] += 9
    assert counts.get("a") == 5
    now[0] += 1
    assert counts.get("a") == 0
    assert counts.add("a", 1, 10) == 1


def test_names_that_collide_are_kept_apart_and_ended_ones_make_room(now: list[float]) -> None:
    counts = SharedCounts(32)  # every name may have any of the places
    for number in range(32):
        counts.add(f"name-{number}", number, 10 + number)
    assert [counts.get(f"name-{number}") for number in range(32)] == list(range(32))
    now[0] += 12
    counts.add("late", 7, 100)  # in the place of one that has ended
    assert [counts.get(f"name-{number}") for number in range(3, 32)] == list(range(3, 32))
    assert counts.get("late") == 7
    for number in range(2):
        counts.add(f"more-{number}", 1, 100)
    counts.add("beyond", 1, 100)  # the first to end is forgotten
    assert counts.get("name-3") == 0
    assert [counts.get(f"name-{number}") for number in range(4, 32)] == list(range(4, 32))


def test_slots_are_taken_up_to_the_limit_of_all_together() -> None:
    counts = SharedCounts()
    assert counts.take("a", ["a", "b"], 2, 3, 60)
    assert not counts.take("b", ["a", "b"], 2, 3, 60)
    assert counts.take("b", ["a", "b"], 1, 3, 60)
    counts.add("a", -2, 60)
    assert sum(counts.get_all(["a", "b"])) == 1


def _count(counts: SharedCounts, times: int) -> None:
    for _ in range(times):
        counts.add("shared", 1, 600)


def test_nothing_is_lost_between_processes_and_threads() -> None:
    counts = SharedCounts()
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_count, args=(counts, 2000)) for _ in range(3)]
    for each in processes:
        each.start()
    threads = [threading.Thread(target=_count, args=(counts, 2000)) for _ in range(3)]
    for each in threads:
        each.start()
    for thread in threads:
        thread.join(60)
    for process in processes:
        process.join(60)
    assert [each.exitcode for each in processes] == [0, 0, 0]
    assert counts.get("shared") == 12_000
