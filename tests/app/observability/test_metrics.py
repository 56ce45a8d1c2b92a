from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from app.audio.encoders import FORMATS
from app.observability import metrics
from app.observability.metrics import FAMILIES, Metrics, count_lost, new_counters, protocol_of
from app.observability.request_log import Outcome, RequestRecord


def read(told: Metrics) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus reads it; `name` alone is the sum over its labels."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(told.render()[0].decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
            samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
    return samples


def speak(counting: Metrics, outcome: Outcome, *, admit: bool = True, code: str | None = None) -> None:
    record = RequestRecord("id", "GET", "/tts/generate", [counting], code=code)
    if admit:
        record.admit()
    if outcome != "refused":
        record.first_audio_seconds, record.underrun_seconds = 0.04, 0.0
        record.audio_seconds, record.speech_seconds = 2.0, 0.5
    record.format, record.status, record.outcome = "mp3", 429 if outcome == "refused" else 200, outcome
    record.end()


def test_every_output_format_has_a_label() -> None:
    assert set(metrics.REQUESTS.labels["format"]) == {"none", "other", "float32", *FORMATS}


def test_names_have_the_prefix_and_a_unit() -> None:
    for family in FAMILIES:
        assert family.name.startswith("csm_")
        assert family.name.endswith(("_total", "_seconds", "_ratio"))


@pytest.mark.parametrize("outcome", ["ok", "refused", "failed", "left", "stalled", "drained"])
def test_every_admitted_request_is_finished_aborted_or_failed(outcome: Outcome) -> None:
    counting = Metrics(new_counters(1))
    speak(counting, outcome)
    seen = read(counting)
    ends = [seen[f"csm_requests_{way}_total"] for way in ("finished", "aborted", "failed")]
    assert seen["csm_requests_admitted_total"] == 1
    assert sorted(ends) == [0, 0, 1]
    assert seen["csm_requests_total"] == 1


def test_a_request_that_was_not_admitted_counts_only_as_a_request() -> None:
    counting = Metrics(new_counters(1))
    speak(counting, "refused", admit=False)
    seen = read(counting)
    assert seen["csm_requests_admitted_total"] == seen["csm_requests_aborted_total"] == 0
    assert seen["csm_requests_total{format=mp3,outcome=refused,protocol=tts,status=429}"] == 1
    assert seen["csm_first_audio_seconds_count"] == 0


def test_outcomes_become_reasons() -> None:
    counting = Metrics(new_counters(1))
    for outcome in ("left", "stalled", "drained", "failed", "failed"):
        speak(counting, outcome)  # type: ignore[arg-type]
    seen = read(counting)
    for reason in ("client_left", "slow_reader", "draining"):
        assert seen[f"csm_requests_aborted_total{{reason={reason}}}"] == 1
    assert seen["csm_requests_failed_total{reason=other}"] == 2


@pytest.mark.parametrize(
    ("outcome", "code", "way"),
    [
        ("failed", "engine_failed", "failed_total{reason=engine_failed}"),
        ("failed", "out_of_memory", "failed_total{reason=out_of_memory}"),
        ("failed", "worker_died", "failed_total{reason=worker_died}"),
        ("failed", "internal_error", "failed_total{reason=other}"),
        ("refused", "worker_died", "failed_total{reason=worker_died}"),  # a 503, and yet it had its slot
        ("refused", "nothing_left", "aborted_total{reason=refused}"),
        ("drained", "draining", "aborted_total{reason=draining}"),
        ("left", "worker_died", "aborted_total{reason=client_left}"),
    ],
)
def test_the_error_code_decides_between_failed_and_aborted(outcome: Outcome, code: str, way: str) -> None:
    counting = Metrics(new_counters(1))
    speak(counting, outcome, code=code)
    assert read(counting)[f"csm_requests_{way}"] == 1


def test_times_are_in_seconds_and_in_the_right_bucket() -> None:
    counting = Metrics(new_counters(1))
    speak(counting, "ok")
    seen = read(counting)
    assert seen["csm_first_audio_seconds_bucket{le=0.03}"] == 0
    assert seen["csm_first_audio_seconds_bucket{le=0.05}"] == seen["csm_first_audio_seconds_bucket{le=+Inf}"] == 1
    assert seen["csm_first_audio_seconds_sum"] == 0.04
    assert seen["csm_audio_seconds_total"] == 2
    assert seen["csm_real_time_factor_ratio_sum"] == 0.25


def test_underruns_are_counted_separately() -> None:
    counting = Metrics(new_counters(1))
    for worst in (0.0, 0.05, 3.0):
        record = RequestRecord("id", "GET", "/", [counting], underrun_seconds=worst)
        record.end()
    seen = read(counting)
    assert seen["csm_underruns_total"] == 2
    assert seen["csm_underrun_seconds_bucket{le=0.0}"] == 1
    assert seen["csm_underrun_seconds_bucket{le=0.1}"] == 2
    assert seen["csm_underrun_seconds_count"] == 3


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/tts/generate", "tts"),
        ("/v1/audio/speech", "openai"),
        ("/voices/amy.wav", "voices"),
        ("/api/generate", "batch"),
        ("/stream/chunks", "batch"),
        ("/generate/wav", "batch"),
        ("/api/amy", "websocket_voice"),
        ("/stream", "websocket_stream"),
        ("/ws", "websocket"),
        ("/metrics", "system"),
        ("/", "page"),
        ("/static/page.js", "page"),
        ("/wp-login.php", "other"),
        ("/wss", "other"),
    ],
)
def test_paths_map_to_protocols(path: str, protocol: str) -> None:
    assert protocol_of(path) == protocol


def test_unknown_paths_methods_and_statuses_add_no_labels() -> None:
    counting = Metrics(new_counters(1))
    for number in range(50):
        record = RequestRecord("id", f"M{number}", f"/{number}", [counting], status=450 + number, format=f"f{number}")
        record.outcome = "refused"
        record.end()
    assert read(counting)["csm_requests_total{format=other,outcome=refused,protocol=other,status=other}"] == 50


def test_every_worker_reports_the_sums_of_all() -> None:
    counters = new_counters(2)
    first, second = (Metrics(counters, row) for row in range(2))
    speak(first, "ok")
    speak(second, "ok")
    assert read(first) == read(second)
    assert read(first)["csm_requests_finished_total"] == 2


def test_gauges_are_read_at_each_request() -> None:
    values = [1.0, 2.0]
    counting = Metrics(new_counters(1), gauges=lambda: [GaugeMetricFamily("csm_now", "Now.", value=values.pop(0))])
    assert [read(counting)["csm_now"] for _ in range(2)] == [1.0, 2.0]


def test_requests_of_a_dead_worker_count_as_failed() -> None:
    counters = new_counters(2)
    dead, alive = Metrics(counters, 0), Metrics(counters, 1)
    speak(dead, "ok")
    for counting in (dead, dead, alive):
        RequestRecord("id", "GET", "/tts/generate", [counting]).admit()
    for _ in range(2):  # the second finds nothing more to count
        count_lost(counters, 0)
    seen = read(alive)
    assert seen["csm_requests_failed_total{reason=worker_died}"] == 2
    assert seen["csm_requests_admitted_total"] == 4
    assert seen["csm_requests_finished_total"] == 1


def test_concurrent_threads_of_a_worker_lose_no_counts() -> None:
    counting = Metrics(new_counters(1))
    threads = [threading.Thread(target=lambda: [counting.voice_encoded() for _ in range(500)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert read(counting)["csm_voices_encoded_total"] == 2000


def families_of(told: Metrics) -> Iterator[str]:
    yield from (family.name for family in told.collect())


def test_openmetrics_is_rendered_on_request() -> None:
    text, media_type = Metrics(new_counters(1)).render("application/openmetrics-text;version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert Metrics(new_counters(1)).render()[1].startswith("text/plain")
    assert len(set(families_of(Metrics(new_counters(1))))) == len(FAMILIES)
