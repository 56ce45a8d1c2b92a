from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load_test.search import PRECISION, largest_load


@given(limit=st.integers(1, 3000), first=st.integers(1, 100), max_load=st.integers(100, 2000))
def test_the_limit_is_found_in_few_trials(limit: int, first: int, max_load: int) -> None:
    tried: list[float] = []

    def holds(load: float) -> bool:
        tried.append(load)
        return load <= limit

    found = largest_load(holds, first, max_load, integer=True, trials=40)
    assert found.load is not None
    assert found.load <= min(limit, max_load)
    if found.ended == "most":
        assert found.load == max_load
    else:
        assert found.ended == "exact"
        assert found.fails is not None
        assert found.load <= limit < found.fails <= found.load + max(1, PRECISION * found.load)
    assert len(tried) == len(set(tried)) < 25
    assert all(load == int(load) >= 1 for load in tried)


@pytest.mark.parametrize("integer", [True, False])
def test_the_search_ends_if_no_load_holds(integer: bool) -> None:
    found = largest_load(lambda load: False, 64, 1024, integer=integer, trials=100)
    assert (found.load, found.ended) == (None, "nothing")


def test_trials_and_time_limit_the_search() -> None:
    tried: list[float] = []
    found = largest_load(lambda load: not tried.append(load), 1, 1e9, integer=True, trials=3)  # type: ignore[func-returns-value]
    assert (found.load, found.ended, tried) == (4, "trials", [1, 2, 4])
    found = largest_load(lambda load: True, 1, 1e9, integer=True, trials=3, has_time=lambda: False)
    assert (found.load, found.ended) == (1, "time")
