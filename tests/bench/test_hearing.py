from __future__ import annotations

import pytest

from bench.listeners.hearing import BYTES_PER_SECOND, Hearing


def test_the_first_sample_is_behind_the_header() -> None:
    hearing = Hearing(sent=10.0, header_bytes=44)
    hearing.hear(10.1, 44)
    assert hearing.first_audio is None
    hearing.hear(10.3, 2)
    assert hearing.first_audio == pytest.approx(0.3)


def test_a_stream_that_is_ahead_never_underruns() -> None:
    hearing = Hearing(0.0, 0)
    for second in range(5):
        hearing.hear(second * 0.9, BYTES_PER_SECOND)
    assert (hearing.underrun, hearing.audio) == (0.0, 5.0)


def test_the_worst_underrun_and_the_worst_gap_are_kept() -> None:
    hearing = Hearing(0.0, 0)
    hearing.hear(1.0, BYTES_PER_SECOND)
    hearing.hear(2.25, BYTES_PER_SECOND * 3)  # a quarter of a second too late
    hearing.hear(4.75, 2)  # later still, and yet in time: there was enough in store
    assert (hearing.underrun, hearing.gap) == (pytest.approx(0.25), pytest.approx(2.5))
