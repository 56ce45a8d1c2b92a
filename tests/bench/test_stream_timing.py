from __future__ import annotations

import pytest

from bench.load_test.audio_meters import SAMPLE_RATE
from bench.load_test.stream_timing import StreamTiming


def test_first_audio_is_measured_from_the_request() -> None:
    timing = StreamTiming(sent=10.0)
    assert timing.first_audio is None
    timing.add(10.3, 1)
    assert timing.first_audio == pytest.approx(0.3)


def test_a_stream_that_is_ahead_never_underruns() -> None:
    timing = StreamTiming(0.0)
    for second in range(5):
        timing.add(second * 0.9, SAMPLE_RATE)
    assert (timing.underrun, timing.audio) == (0.0, 5.0)


def test_the_worst_underrun_and_gap_are_reported() -> None:
    timing = StreamTiming(0.0)
    timing.add(1.0, SAMPLE_RATE)
    timing.add(2.25, SAMPLE_RATE * 3)  # 0.25 s late
    timing.add(4.75, 1)  # a longer gap without underrun: enough audio was buffered
    assert (timing.underrun, timing.gap) == (pytest.approx(0.25), pytest.approx(2.5))
