from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.observability.underruns import UnderrunMeter


def played(*pieces: tuple[float, float, float]) -> float:
    """The worst underrun of pieces that were (ready at, sent at, seconds of audio so far)."""
    pacing = UnderrunMeter()
    for ready, sent, audio in pieces:
        pacing.ready(ready)
        pacing.sent(sent, audio)
    return pacing.worst


def test_audio_in_time_never_underruns() -> None:
    assert played((10, 10, 0.25), (10.25, 10.25, 0.5), (10.5, 10.1, 0.5)) == 0


def test_late_audio_underruns_and_the_longest_gap_counts() -> None:
    assert played((0, 0, 1), (1.25, 1.25, 3), (3.125, 3.125, 4)) == 0.25


def test_time_blocked_on_a_full_buffer_does_not_count() -> None:
    assert played((0, 0, 1), (0.5, 60, 2), (60.5, 60.5, 3)) == 0
    assert played((0, 0, 1), (0.5, 60, 2), (62, 62, 3)) == 0.5


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.08, 5)), min_size=1, max_size=20))
def test_the_longest_gap_is_that_of_a_player(gaps: list[tuple[float, float]]) -> None:
    """Against a player that starts with the first audio; sends take no time here."""
    pacing, now, audio, starts, missed = UnderrunMeter(), 0.0, 0.0, 0.0, 0.0
    for index, (gap, seconds) in enumerate(gaps):
        now += gap
        pacing.ready(now)
        if index == 0:
            starts = now
        missed = max(missed, (now - starts) - audio) if index else 0.0
        audio += seconds
        pacing.sent(now, audio)
    assert abs(pacing.worst - missed) < 1e-9
