from __future__ import annotations

from dataclasses import replace

from bench.load_test.client_process import ClientResults
from bench.load_test.metrics import compute_metrics
from bench.load_test.report import caveats, table_row, to_json
from bench.load_test.stream_timing import RequestResult
from bench.load_test.trial import Address, Track, Trial

TRIAL = Trial(Address("127.0.0.1", 1), Track("fixed", 2.0), "closed", 4, ramp=1.0, seconds=10.0, drain=5.0)
GOOD = RequestResult(
    measured=True, sent=2.0, late=0.0, ended=4.0, end="whole", status=200,
    first_audio=0.1, audio=2.0, underrun=0.0, gap=0.2,
)  # fmt: skip


def test_a_load_holds_if_all_streams_are_answered_early_and_without_underruns() -> None:
    metrics = compute_metrics(TRIAL, ClientResults([GOOD] * 200, window_samples=24_000 * 40))
    assert metrics.holds
    assert (metrics.audio_rate, metrics.concurrency, metrics.rate_per_stream) == (4.0, 40.0, 0.1)
    assert caveats(metrics) == []
    assert to_json(metrics)["c100"] == 1.0


def test_one_underrun_in_a_hundred_streams_is_tolerated_and_two_are_not() -> None:
    underrun = replace(GOOD, underrun=0.15)
    one = compute_metrics(TRIAL, ClientResults([GOOD] * 99 + [underrun]))
    two = compute_metrics(TRIAL, ClientResults([GOOD] * 98 + [underrun] * 2))
    assert one.holds
    assert two.underrun_shares == {50: 0.98, 100: 0.98, 200: 1.0}
    assert two.violations == ["C100 under 99%"]


def test_first_audio_is_limited_at_the_95th_percentile() -> None:
    late = replace(GOOD, first_audio=0.4)
    assert compute_metrics(TRIAL, ClientResults([GOOD] * 95 + [late] * 5)).holds
    assert compute_metrics(TRIAL, ClientResults([GOOD] * 94 + [late] * 6)).violations == ["first audio over 300 ms"]


def test_every_request_must_be_answered() -> None:
    rejected = replace(GOOD, end="rejected", status=429, first_audio=None, audio=0.0)
    metrics = compute_metrics(TRIAL, ClientResults([GOOD] * 1000 + [rejected, replace(GOOD, end="cut")]))
    assert (metrics.rejects, metrics.answered, metrics.streams) == ({"429": 1, "cut": 1}, 1000, 1002)
    assert metrics.violations == ["2 not answered"]
    assert "1 x 429" in table_row(metrics)


def test_unmeasured_requests_are_ignored() -> None:
    metrics = compute_metrics(TRIAL, ClientResults([replace(GOOD, measured=False)]))
    assert metrics.violations == ["nothing was measured"]
    assert to_json(metrics)["first_audio_ms"] is None
    assert table_row(metrics)


def test_caveats_name_what_weakens_a_result() -> None:
    metrics = compute_metrics(TRIAL, ClientResults([replace(GOOD, late=0.05), replace(GOOD, audio=1.0)]))
    assert [caveat.split(":")[0] for caveat in caveats(metrics)] == [
        "requests were sent up to 50 ms late",
        "2 streams",
        "answers have different lengths",
    ]
