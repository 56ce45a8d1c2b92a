from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler import Scheduler


@dataclass(eq=False)
class Item:
    rows_needed: int = 1
    rows: list[int] = field(default_factory=list)


def test_the_lowest_free_rows_are_assigned_first() -> None:
    scheduler: Scheduler[Item] = Scheduler(3)
    items = [Item() for _ in range(4)]
    for item in items:
        scheduler.enqueue(item)
    assert [item.rows for item in scheduler.admit()] == [[0], [1], [2]]
    assert scheduler.waiting == 1
    scheduler.release(items[1])
    assert [item.rows for item in scheduler.admit()] == [[1]]


def test_an_item_that_needs_two_rows_is_not_overtaken() -> None:
    scheduler: Scheduler[Item] = Scheduler(2)
    first, wide, last = Item(), Item(2), Item()
    for item in (first, wide, last):
        scheduler.enqueue(item)
    assert scheduler.admit() == [first]
    scheduler.release(first)
    assert scheduler.admit() == [wide]
    assert wide.rows == [0, 1]


@given(st.lists(st.sampled_from(["enqueue", "enqueue two", "admit", "release"]), max_size=60), st.randoms())
def test_rows_are_never_lost_or_assigned_twice(steps: list[str], random: object) -> None:
    scheduler: Scheduler[Item] = Scheduler(5)
    live: list[Item] = []
    for step in steps:
        if step.startswith("enqueue"):
            live.append(Item(2 if step.endswith("two") else 1))
            scheduler.enqueue(live[-1])
        elif step == "admit":
            scheduler.admit()
        elif live:
            scheduler.release(live.pop(random.randrange(len(live))))  # type: ignore[attr-defined]
        held = [row for item in scheduler.running for row in item.rows]
        assert len(held) == len(set(held)) == scheduler.rows_taken
        assert set(scheduler) == set(live)
    for item in live:
        scheduler.release(item)
    assert scheduler.rows_taken == scheduler.waiting == 0
