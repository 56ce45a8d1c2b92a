from __future__ import annotations

from dataclasses import replace

from bench.load_test.client_process import ClientResults
from bench.load_test.metrics import compute_metrics
from bench.load_test.report import caveats, line, to_json
from bench.load_test.stream_timing import RequestResult
from bench.load_test.trial import Address, Track, Trial

TRIAL = Trial(Address("127.0.0.1", 1), Track("fixed", 2.0), "closed", 4, ramp=1.0, seconds=10.0, drain=5.0)
GOOD = RequestResult(
    measured=True, sent=2.0, late=0.0, ended=4.0, end="whole", status=200,
    first_audio=0.1, audio=2.0, underrun=0.0, gap=0.2,
)  # fmt: skip


def test_a_load_holds_when_all_are_answered_soon_and_without_a_pause() -> None:
    figures = compute_metrics(TRIAL, ClientResults([GOOD] * 200, window_samples=24_000 * 40))
    assert figures.holds
    assert (figures.rate, figures.at_once, figures.each) == (4.0, 40.0, 0.1)
    assert caveats(figures) == []
    assert to_json(figures)["c100"] == 1.0


def test_one_that_stutters_in_a_hundred_is_borne_and_two_are_not() -> None:
    stutter = replace(GOOD, underrun=0.15)
    one = compute_metrics(TRIAL, ClientResults([GOOD] * 99 + [stutter]))
    two = compute_metrics(TRIAL, ClientResults([GOOD] * 98 + [stutter] * 2))
    assert one.holds
    assert two.c == {50: 0.98, 100: 0.98, 200: 1.0}
    assert two.broken == ["C100 under 99%"]


def test_late_first_audio_breaks_it_at_the_95th_percentile() -> None:
    late = replace(GOOD, first_audio=0.4)
    assert compute_metrics(TRIAL, ClientResults([GOOD] * 95 + [late] * 5)).holds
    assert compute_metrics(TRIAL, ClientResults([GOOD] * 94 + [late] * 6)).broken == ["first audio over 300 ms"]


def test_every_request_has_to_be_answered() -> None:
    refused = replace(GOOD, end="rejected", status=429, first_audio=None, audio=0.0)
    figures = compute_metrics(TRIAL, ClientResults([GOOD] * 1000 + [refused, replace(GOOD, end="cut")]))
    assert (figures.rejects, figures.answered, figures.streams) == ({"429": 1, "cut": 1}, 1000, 1002)
    assert figures.broken == ["2 not answered"]
    assert "1 x 429" in line(figures)


def test_what_was_not_measured_counts_for_nothing() -> None:
    figures = compute_metrics(TRIAL, ClientResults([replace(GOOD, measured=False)]))
    assert figures.broken == ["nothing was measured"]
    assert to_json(figures)["first_audio_ms"] is None
    assert line(figures)


def test_the_reader_is_told_what_weakens_a_figure() -> None:
    figures = compute_metrics(TRIAL, ClientResults([replace(GOOD, late=0.05), replace(GOOD, audio=1.0)]))
    assert [remark.split(":")[0] for remark in caveats(figures)] == [
        "requests were sent up to 50 ms late",
        "2 streams",
        "answers are not of one length, but 1.00 to 2.00 s",
    ]
