from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load_test.search import PRECISION, largest_load


@given(limit=st.integers(1, 3000), first=st.integers(1, 100), most=st.integers(100, 2000))
def test_it_closes_in_on_the_limit_in_few_trials(limit: int, first: int, most: int) -> None:
    tried: list[float] = []

    def holds(load: float) -> bool:
        tried.append(load)
        return load <= limit

    found = largest_load(holds, first, most, whole=True, trials=40)
    assert found.load is not None
    assert found.load <= min(limit, most)
    if found.ended == "most":
        assert found.load == most
    else:
        assert found.ended == "exact"
        assert found.fails is not None
        assert found.load <= limit < found.fails <= found.load + max(1, PRECISION * found.load)
    assert len(tried) == len(set(tried)) < 25
    assert all(load == int(load) >= 1 for load in tried)


@pytest.mark.parametrize("whole", [True, False])
def test_it_ends_where_nothing_holds(whole: bool) -> None:
    found = largest_load(lambda load: False, 64, 1024, whole=whole, trials=100)
    assert (found.load, found.ended) == (None, "nothing")


def test_trials_and_time_end_it() -> None:
    tried: list[float] = []
    found = largest_load(lambda load: not tried.append(load), 1, 1e9, whole=True, trials=3)  # type: ignore[func-returns-value]
    assert (found.load, found.ended, tried) == (4, "trials", [1, 2, 4])
    found = largest_load(lambda load: True, 1, 1e9, whole=True, trials=3, in_time=lambda: False)
    assert (found.load, found.ended) == (1, "time")
