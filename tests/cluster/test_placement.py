from __future__ import annotations

import random
from collections import Counter

from cluster.placement import Load, order


def best(loads: list[Load], familiar: int | None = None, choices: int = 8) -> int:
    return order(len(loads), loads.__getitem__, random.Random(1), familiar=familiar, choices=choices)[0]


def test_the_least_busy_by_share_of_its_slots_comes_first() -> None:
    loads = [Load(3, 4), Load(5, 16), Load(1, 2)]
    assert order(3, loads.__getitem__, random.Random(1)) == [1, 2, 0]


def test_the_voice_counts_for_a_quarter_of_the_slots() -> None:
    assert best([Load(2, 8), Load(3, 8, has_voice=True)]) == 1
    assert best([Load(2, 8), Load(5, 8, has_voice=True)]) == 0


def test_a_full_replica_comes_last_whatever_voices_it_has() -> None:
    assert best([Load(7, 8), Load(8, 8, has_voice=True)]) == 0
    assert best([Load(9, 8), Load(8, 8)]) == 1


def test_a_silent_replica_comes_after_a_full_one() -> None:
    assert best([Load(0, 8, has_voice=True, silent=True), Load(8, 8)]) == 1
    assert best([Load(5, 8, silent=True), Load(3, 8, silent=True)]) == 1  # where none reports, load decides


def test_a_replica_that_has_not_reported_its_slots_takes_one_request() -> None:
    assert best([Load(0, 0), Load(1, 8)]) == 0
    assert best([Load(1, 0), Load(7, 8)]) == 1


def test_the_familiar_replica_is_looked_at_beside_those_drawn() -> None:
    loads = [Load(4, 8) for _ in range(100)]
    loads[77] = Load(4, 8, has_voice=True)
    assert best(loads, familiar=77, choices=2) == 77
    assert best(loads[:2], familiar=1) in (0, 1)


def test_equals_share_the_requests() -> None:
    source = random.Random(5)
    chosen = Counter(order(10, lambda _: Load(1, 8), source)[0] for _ in range(2000))
    assert len(chosen) == 10
    assert max(chosen.values()) < 2 * min(chosen.values())
