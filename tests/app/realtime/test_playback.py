from __future__ import annotations

import pytest

from app.realtime.playback import PlaybackClock


def test_audio_that_was_sent_at_once_is_heard_in_real_time() -> None:
    clock = PlaybackClock()
    for _ in range(10):
        clock.sent(0.5, now=100.0)
    assert clock.heard_seconds(100.0) == 0
    assert clock.heard_seconds(102.0) == pytest.approx(2)
    assert clock.playing(104.9)
    assert not clock.playing(105.0)
    assert clock.heard_seconds(200.0) == pytest.approx(5)


def test_a_gap_is_not_heard() -> None:
    clock = PlaybackClock()
    clock.sent(1, now=0.0)
    clock.sent(1, now=5.0)
    assert clock.heard_seconds(5.5) == pytest.approx(1.5)


def test_after_a_stop_nothing_more_is_heard() -> None:
    clock = PlaybackClock()
    clock.sent(10, now=0.0)
    clock.stop(2.0)
    assert clock.heard_seconds(9.0) == pytest.approx(2)
    assert not clock.playing(2.0)
