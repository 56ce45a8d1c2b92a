from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.slice_policy import SlicePolicy


class Listener:
    """Simulates real-time playback from the first audio on, with a clock that advances by frames."""

    def __init__(self, first: int = 1, max_frames: int = 5) -> None:
        self.now = 100.0
        self.given = 0.0  # seconds of audio
        self.policy = SlicePolicy(first, max_frames, audio=lambda: self.given, clock=lambda: self.now)
        self.sizes: list[int] = []
        self.worst_gap = 0.0
        self._buffered_until = 0.0

    def emit(self, frame_seconds: float, slices: int, share: float = 1.0) -> Listener:
        """share: of the audio that is made, what the listener is given; the rest is mixed with it, or held back."""
        for _ in range(slices):
            size = self.policy.size
            self.now += size * frame_seconds
            if self.given:
                self.worst_gap = max(self.worst_gap, self.now - self._buffered_until)
            self._buffered_until = max(self._buffered_until, self.now) + size * 0.08 * share
            self.sizes.append(size)
            self.policy.emitting()
            self.given += size * 0.08 * share
        return self


def test_a_fast_engine_reaches_full_slices_at_once() -> None:
    assert Listener().emit(0.004, 8).sizes == [1, 1, 2, 4, 5, 5, 5, 5]
    assert Listener(first=3, max_frames=20).emit(0.004, 6).sizes == [3, 3, 6, 12, 20, 20]


def test_the_first_slice_is_not_larger_than_the_others() -> None:
    assert Listener(first=9, max_frames=2).emit(0.004, 3).sizes == [2, 2, 2]


@pytest.mark.parametrize("frame_seconds", [0.01, 0.03, 0.05, 0.06, 0.07, 0.079])
def test_an_engine_faster_than_real_time_causes_no_gaps(frame_seconds: float) -> None:
    listener = Listener(max_frames=125).emit(frame_seconds, 300)
    assert listener.worst_gap <= 0
    assert max(listener.sizes) > 1


def test_after_a_wait_for_text_slices_grow_as_at_the_start() -> None:
    listener = Listener().emit(0.004, 8)
    listener.policy.text_came()  # in time: there is audio to play
    assert listener.emit(0.004, 1).sizes[-1] == 5
    listener.now += 60
    listener.policy.text_came()
    assert listener.emit(0.004, 5).sizes[-5:] == [1, 2, 4, 5, 5]


@pytest.mark.parametrize("left", [0.1, 0.3, 0.6])
def test_text_that_comes_before_the_listener_has_heard_all_causes_no_gap(left: float) -> None:
    listener = Listener().emit(0.04, 40)
    listener.now = listener._buffered_until - left
    listener.policy.text_came()
    assert listener.emit(0.04, 40).worst_gap <= 0
    assert listener.sizes[-1] == 5


def test_turns_that_overlap_cause_no_gap() -> None:
    """Half of what is made is mixed with the other half."""
    listener = Listener(max_frames=125).emit(0.03, 300, share=0.5)
    assert listener.worst_gap <= 0
    assert max(listener.sizes) > 1


def test_slices_stay_small_until_the_listener_has_audio() -> None:
    listener = Listener().emit(0.07, 30, share=0.0)
    assert set(listener.sizes) == {1}
    assert listener.emit(0.07, 60).worst_gap <= 0
    assert max(listener.sizes) > 1


def test_an_engine_slower_than_real_time_emits_every_frame() -> None:
    assert set(Listener().emit(0.2, 50).sizes) == {1}


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=50), st.integers(1, 125), st.integers(1, 125))
def test_sizes_stay_within_bounds(frames: list[float], first: int, max_frames: int) -> None:
    listener = Listener(first, max_frames)
    for seconds in frames:
        listener.emit(seconds, 1)
        assert 1 <= listener.policy.size <= max_frames
