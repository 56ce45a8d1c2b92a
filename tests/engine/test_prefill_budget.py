"""Prefill takes the time that listeners can spare, and always a minimum."""

from __future__ import annotations

import gc
from itertools import count

import pytest

from engine import SpeechRequest
from engine.prefill_budget import BEFORE_PLAYBACK, UNLIMITED, BufferedAudio, PlaybackClock, PrefillBudget

POSITION = 0.0001
REQUEST = SpeechRequest("Hello.", slice_frames=5)


def measured(step: float, min_positions: int = 10) -> PrefillBudget:
    budget = PrefillBudget(min_positions)
    budget.record(step, 0, stepped=True)
    budget.record(step + 100 * POSITION, 100, stepped=True)
    return budget


def test_the_minimum_is_granted_until_there_are_measurements() -> None:
    assert PrefillBudget(10).budget([BufferedAudio(100, 1)]) == 10


@pytest.mark.parametrize("step", [0.005, 0.03, 0.07])
@pytest.mark.parametrize("slice_frames", [1, 5])
def test_prefill_never_makes_a_listener_run_out_of_audio(step: float, slice_frames: int) -> None:
    """Simulates a stream frame by frame beside endless prefill, with growing slices."""
    budget, now, emitted, slice_now = measured(step, min_positions=1), 0.0, 0, 1
    started: float | None = None
    for _ in range(300):
        for _ in range(slice_now):
            buffered = emitted * 0.08 - (now - (started if started is not None else now))
            buffer = BEFORE_PLAYBACK if started is None else BufferedAudio(buffered, slice_now)
            now += step + budget.budget([buffer]) * POSITION
        if started is None:
            started = now
        assert emitted * 0.08 >= now - started - 1e-9  # the next slice is emitted before the last one has been played
        emitted += slice_now
        buffered = emitted * 0.08 - (now - started)
        slice_now = max(1, min(2 * slice_now, slice_frames, int(buffered / 2 / (1.25 * step))))


def test_more_buffered_audio_grants_more_prefill() -> None:
    budget = measured(0.01)
    budgets = [budget.budget([BufferedAudio(seconds, 5)]) for seconds in (-1.0, 0.1, 1.0, 2.0)]
    assert budgets == sorted(budgets)
    assert budgets[-1] > 10 * budgets[0]
    assert budget.budget([BufferedAudio(2.0, 5), BufferedAudio(0.1, 5)]) == budgets[1]  # the smallest buffer decides


def test_an_engine_slower_than_real_time_admits_all() -> None:
    assert measured(0.9).budget([BufferedAudio(-5.0, 5)]) == UNLIMITED


def test_with_nobody_decoding_a_burst_is_admitted_for_the_time_of_one_frame() -> None:
    assert measured(0.01).budget([]) * POSITION == pytest.approx(0.08, abs=POSITION)
    assert PrefillBudget(10).budget([]) == UNLIMITED  # the first requests after the start


def test_measurements_are_moving_averages() -> None:
    budget = measured(0.01)
    before = budget.budget([BEFORE_PLAYBACK])
    for _ in range(40):
        budget.record(1.0, 100, stepped=False)
    assert budget.budget([BEFORE_PLAYBACK]) < before / 10


def test_buffered_audio_is_never_overestimated() -> None:
    now = count()
    playback = PlaybackClock(clock=lambda: next(now) * 0.08)
    key = SpeechRequest("any")
    assert playback.buffered(key, 0, REQUEST) == BEFORE_PLAYBACK
    playback.frame_emitted(key)  # at 0
    first = playback.buffered(key, 1, REQUEST)  # at 0.08: all of it has been played
    assert first.seconds == pytest.approx(0.0)
    assert first.frames == 1
    later = playback.buffered(key, 30, REQUEST)  # at 0.16: 4 of 30 frames may wait in an unfinished slice
    assert later.seconds == pytest.approx(24 * 0.08)
    assert later.frames == 5


def test_a_held_stream_is_not_counted_as_late() -> None:
    times = iter([0.0, 100.0, 100.0])
    playback = PlaybackClock(clock=lambda: next(times))
    key = SpeechRequest("any")
    playback.frame_emitted(key)
    playback.hold(key, 30, REQUEST)
    assert playback.buffered(key, 30, REQUEST).seconds >= 0.0


def test_a_stream_that_waited_for_text_is_not_counted_as_late() -> None:
    times = iter([0.0, 100.0, 100.0, 100.0])
    playback = PlaybackClock(clock=lambda: next(times))
    key = SpeechRequest("any")
    playback.frame_emitted(key)
    assert playback.buffered(key, 30, REQUEST).seconds < -90
    playback.text_came(key, 30)
    assert playback.buffered(key, 35, REQUEST).seconds >= 0.0


def test_audio_that_turns_share_is_not_buffered_twice() -> None:
    playback = PlaybackClock(clock=lambda: 100.0)
    key = SpeechRequest("any")
    playback.frame_emitted(key)
    all_of_it = playback.buffered(key, 30, REQUEST).seconds
    assert playback.buffered(key, 30, REQUEST, surplus=-1.5).seconds == pytest.approx(all_of_it - 1.5)


def test_playback_begins_with_the_first_audio_that_is_not_held_back() -> None:
    now = 0.0
    playback = PlaybackClock(clock=lambda: now)
    key = SpeechRequest("any")
    for number in range(20):
        now = 0.06 * number
        playback.frame_emitted(key, begins=True)
    now += 0.06
    playback.frame_emitted(key, begins=False)
    assert playback.buffered(key, 21, REQUEST).seconds == pytest.approx(17 * 0.08 - 0.06)


def test_dropped_streams_are_forgotten() -> None:
    playback = PlaybackClock()
    playback.frame_emitted(SpeechRequest("any"))
    gc.collect()
    assert len(playback._started) == 0
