"""Prefill takes what listeners can spare, and always a little."""

from __future__ import annotations

import gc
from itertools import count

import pytest

from engine import SpeechRequest
from engine.prefill_budget import BEFORE_PLAYBACK, BufferedAudio, PlaybackClock, PrefillBudget

POSITION = 0.0001
REQUEST = SpeechRequest("Hello.", slice_frames=5)


def pace(step: float, fewest: int = 10) -> PrefillBudget:
    made = PrefillBudget(fewest)
    made.took(step, 0, spoke=True)
    made.took(step + 100 * POSITION, 100, spoke=True)
    return made


def test_until_something_was_measured_the_fewest() -> None:
    assert PrefillBudget(10).budget([BufferedAudio(100, 1)]) == 10


@pytest.mark.parametrize("step", [0.005, 0.03, 0.07])
@pytest.mark.parametrize("slice_frames", [1, 5])
def test_no_listener_is_ever_late_for_what_others_have_to_read(step: float, slice_frames: int) -> None:
    """A stream is followed frame by frame beside endless prefill, slices growing as the engine lets them."""
    made, now, given, slice_now = pace(step, fewest=1), 0.0, 0, 1
    began: float | None = None
    for _ in range(300):
        for _ in range(slice_now):
            unheard = given * 0.08 - (now - (began if began is not None else now))
            lead = BEFORE_PLAYBACK if began is None else BufferedAudio(unheard, slice_now)
            now += step + made.budget([lead]) * POSITION
        if began is None:
            began = now
        assert given * 0.08 >= now - began - 1e-9  # the next slice is there before the last one is over
        given += slice_now
        unheard = given * 0.08 - (now - began)
        slice_now = max(1, min(2 * slice_now, slice_frames, int(unheard / 2 / (1.25 * step))))


def test_the_further_ahead_the_more_is_read() -> None:
    made = pace(0.01)
    budgets = [made.budget([BufferedAudio(seconds, 5)]) for seconds in (-1.0, 0.1, 1.0, 2.0)]
    assert budgets == sorted(budgets)
    assert budgets[-1] > 10 * budgets[0]
    assert made.budget([BufferedAudio(2.0, 5), BufferedAudio(0.1, 5)]) == budgets[1]  # the smallest buffer decides


def test_a_machine_that_cannot_keep_up_still_takes_new_speech_in() -> None:
    assert pace(0.9).budget([BufferedAudio(-5.0, 5)]) * POSITION == pytest.approx(0.9 / 4, abs=POSITION)


def test_what_was_measured_follows_what_happens() -> None:
    made = pace(0.01)
    before = made.budget([BEFORE_PLAYBACK])
    for _ in range(40):
        made.took(1.0, 100, spoke=False)
    assert made.budget([BEFORE_PLAYBACK]) < before / 10


def test_leads_are_never_taken_for_longer_than_they_are() -> None:
    now = count()
    listeners = PlaybackClock(clock=lambda: next(now) * 0.08)
    who = SpeechRequest("anybody")
    assert listeners.lead(who, 0, REQUEST) == BEFORE_PLAYBACK
    listeners.hear(who)  # at 0
    first = listeners.lead(who, 1, REQUEST)  # at 0.08: all of it is heard
    assert first.seconds == pytest.approx(0.0)
    assert first.frames == 1
    later = listeners.lead(who, 30, REQUEST)  # at 0.16: 4 of 30 frames may wait in an unfinished slice
    assert later.seconds == pytest.approx(24 * 0.08)
    assert later.frames == 5


def test_who_reads_late_is_not_late() -> None:
    times = iter([0.0, 100.0, 100.0])
    listeners = PlaybackClock(clock=lambda: next(times))
    who = SpeechRequest("anybody")
    listeners.hear(who)
    listeners.lag(who, 30, REQUEST)
    assert listeners.lead(who, 30, REQUEST).seconds >= 0.0


def test_who_has_gone_is_forgotten() -> None:
    listeners = PlaybackClock()
    listeners.hear(SpeechRequest("anybody"))
    gc.collect()
    assert len(listeners._began) == 0
