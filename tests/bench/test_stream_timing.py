from __future__ import annotations

import pytest

from bench.load_test.audio_meters import SAMPLE_RATE
from bench.load_test.stream_timing import StreamTiming


def test_first_audio_is_counted_from_the_request() -> None:
    hearing = StreamTiming(sent=10.0)
    assert hearing.first_audio is None
    hearing.hear(10.3, 1)
    assert hearing.first_audio == pytest.approx(0.3)


def test_a_stream_that_is_ahead_never_underruns() -> None:
    hearing = StreamTiming(0.0)
    for second in range(5):
        hearing.hear(second * 0.9, SAMPLE_RATE)
    assert (hearing.underrun, hearing.audio) == (0.0, 5.0)


def test_the_worst_underrun_and_the_worst_gap_are_kept() -> None:
    hearing = StreamTiming(0.0)
    hearing.hear(1.0, SAMPLE_RATE)
    hearing.hear(2.25, SAMPLE_RATE * 3)  # a quarter of a second too late
    hearing.hear(4.75, 1)  # later still, and yet in time: there was enough in store
    assert (hearing.underrun, hearing.gap) == (pytest.approx(0.25), pytest.approx(2.5))
