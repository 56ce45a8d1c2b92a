from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.slice_policy import SlicePolicy


class Listener:
    """Hears slices in real time from the first on, while frames are made on a clock of its own."""

    def __init__(self, first: int = 1, most: int = 5) -> None:
        self.now = 100.0
        self.sizes = SlicePolicy(first, most, clock=lambda: self.now)
        self.seen: list[int] = []
        self.worst_gap = 0.0
        self._heard_until = 0.0

    def make(self, frame_seconds: float, slices: int) -> Listener:
        for _ in range(slices):
            size = self.sizes.size
            self.now += size * frame_seconds
            if self.seen:
                self.worst_gap = max(self.worst_gap, self.now - self._heard_until)
            self._heard_until = max(self._heard_until, self.now) + size * 0.08
            self.seen.append(size)
            self.sizes.emitted()
        return self


def test_a_fast_engine_reaches_full_slices_at_once() -> None:
    assert Listener().make(0.004, 8).seen == [1, 1, 2, 4, 5, 5, 5, 5]
    assert Listener(first=3, most=20).make(0.004, 6).seen == [3, 3, 6, 12, 20, 20]


def test_the_first_slice_is_no_larger_than_the_others() -> None:
    assert Listener(first=9, most=2).make(0.004, 3).seen == [2, 2, 2]


@pytest.mark.parametrize("frame_seconds", [0.01, 0.03, 0.05, 0.06, 0.07, 0.079])
def test_whoever_keeps_up_never_lets_anybody_wait(frame_seconds: float) -> None:
    listener = Listener(most=125).make(frame_seconds, 300)
    assert listener.worst_gap <= 0
    assert max(listener.seen) > 1


def test_an_engine_behind_real_time_gives_out_every_frame() -> None:
    assert set(Listener().make(0.2, 50).seen) == {1}


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=50), st.integers(1, 125), st.integers(1, 125))
def test_sizes_stay_within_bounds(frames: list[float], first: int, most: int) -> None:
    listener = Listener(first, most)
    for seconds in frames:
        listener.make(seconds, 1)
        assert 1 <= listener.sizes.size <= most
