from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.pool.placement import Candidate, choose


def test_the_lowest_relative_load_is_chosen() -> None:
    assert choose([Candidate(0, 3, 4, 0), Candidate(1, 4, 16, 0)], 1) == 1
    assert choose([Candidate(0, 0, 4, 0), Candidate(1, 0, 16, 0)], 1) == 1
    assert choose([], 1) is None


def test_among_equals_the_least_recently_chosen_is_chosen() -> None:
    assert choose([Candidate(0, 1, 4, 9), Candidate(1, 1, 4, 7), Candidate(2, 1, 4, 8)], 1) == 1


def test_only_free_skips_workers_without_enough_permits() -> None:
    full = [Candidate(0, 4, 4, 0), Candidate(1, 3, 4, 0)]
    assert choose(full, 1, only_free=True) == 1
    assert choose(full, 2, only_free=True) is None
    assert choose(full, 2) == 1


@given(st.lists(st.integers(1, 3), min_size=1, max_size=60), st.integers(1, 6))
def test_loads_differ_by_one_request_at_most(permits: list[int], workers: int) -> None:
    loads, turns = [0] * workers, [0] * workers
    for turn, wanted in enumerate(permits, 1):
        chosen = choose([Candidate(each, loads[each], 16, turns[each]) for each in range(workers)], wanted)
        assert chosen is not None
        loads[chosen] += wanted
        turns[chosen] = turn
    assert max(loads) - min(loads) <= max(permits)
