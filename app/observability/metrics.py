"""Prometheus metrics of requests, summed over all workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .event_loop_lag import CPU, LOOP_LAG
from .request_log import Outcome, RequestRecord
from .shared_counters import OTHER, Counter, Family, Histogram, SharedCounters

_PROTOCOLS = (  # the first pattern that matches; the path itself would be an unbounded label
    ("tts", r"/tts/generate"),
    ("realtime", r"/v1/realtime"),
    ("openai", r"/v1/.*"),
    ("voices", r"/voices(/.*)?"),
    ("websocket", r"/ws"),
    ("websocket_stream", r"/stream"),
    ("batch", r"/stream/chunks|/generate(/wav)?|/api/generate"),
    ("websocket_voice", r"/api/.*"),
    ("system", r"/(health|livez|readyz|ping|metrics|system-status)"),
    ("page", r"/|/static/.*"),
)
# Listed here, since the master imports no encoders. float32 is sent on WebSockets.
_FORMATS = (
    *("wav", "mp3", "fmp4", "raw_pcm", "webm", "opus", "flac", "aac", "mulaw", "alaw", "wav_mulaw", "wav_alaw"),
    "float32",
)
_STATUSES = (
    *("none", "200", "201", "202", "204", "206", "304", "400", "401", "403", "404", "405", "409", "413", "415"),
    *("422", "429", "500", "503"),
)
_OUTCOMES: tuple[Outcome, ...] = ("ok", "refused", "failed", "left", "stalled", "drained")
_ABORTED: dict[Outcome, str] = {
    "left": "client_left",
    "stalled": "slow_reader",
    "drained": "draining",
    "refused": "refused",
}

REQUESTS = Counter(
    "csm_requests_total",
    "Requests that ended; a WebSocket counts as one, and each of its texts as another.",
    {
        "protocol": (*(name for name, _ in _PROTOCOLS), OTHER),
        "format": ("none", *_FORMATS, OTHER),
        "status": (*_STATUSES, OTHER),
        "outcome": _OUTCOMES,
    },
)
ADMITTED = Counter("csm_requests_admitted_total", "Requests that got a slot.")
FINISHED = Counter("csm_requests_finished_total", "Admitted requests whose speech was complete.")
ABORTED = Counter(
    "csm_requests_aborted_total",
    "Admitted requests that ended early without a failure of the service.",
    {"reason": tuple(_ABORTED.values())},
)
FAILED = Counter(
    "csm_requests_failed_total",
    "Admitted requests that failed: an engine error, or the worker died.",
    {"reason": ("engine_failed", "out_of_memory", "worker_died", OTHER)},
)
RESUMED = Counter(
    "csm_streams_resumed_total",
    "Streams whose worker died in mid-stream: another worker spoke on, or they were cut.",
    {"outcome": ("resumed", "cut")},
)
FIRST_AUDIO = Histogram(
    "csm_first_audio_seconds",
    "From the arrival of a request to its first audio, including the wait for a slot.",
    (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10),
)
REAL_TIME_FACTOR = Histogram(
    "csm_real_time_factor_ratio",
    "Seconds to generate a second of audio; below 1 is faster than real time.",
    (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2, 5),
)
UNDERRUN = Histogram(
    "csm_underrun_seconds",
    "The longest gap in the audio of a stream; bucket 0 counts streams without a gap.",
    (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
UNDERRUNS = Counter("csm_underruns_total", "Streams with at least one gap in their audio.")
AUDIO = Counter("csm_audio_seconds_total", "Seconds of audio sent.")
_TURN_BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10)
TURN_SPANS = {
    "total": Histogram(
        "csm_turn_latency_seconds", "From the end of the user's speech to the first audio of the answer.", _TURN_BUCKETS
    ),
    "silence": Histogram(
        "csm_turn_silence_seconds", "The silence after which the user's turn counted as over.", _TURN_BUCKETS
    ),
    "stt": Histogram(
        "csm_turn_stt_seconds", "From the end of the user's turn until its words were known.", _TURN_BUCKETS
    ),
    "llm": Histogram(
        "csm_turn_llm_seconds", "From then until the language model had written its first clause.", _TURN_BUCKETS
    ),
    "first_frame": Histogram("csm_turn_first_frame_seconds", "From then until its first audio.", _TURN_BUCKETS),
}
INTERRUPTIONS = Counter("csm_interruptions_total", "Answers of a conversation that the user interrupted.")
VOICES_ENCODED = Counter("csm_voices_encoded_total", "Voices encoded ahead of requests, at startup or after an upload.")
RATE_LIMIT_ERRORS = Counter(
    "csm_rate_limit_errors_total", "Times that Redis did not answer, so that limits held on this machine alone."
)
RESTARTS = Counter("csm_worker_restarts_total", "Workers started to replace one that exited.")

FAMILIES: tuple[Family, ...] = (
    *(REQUESTS, ADMITTED, FINISHED, ABORTED, FAILED, RESUMED),
    *(FIRST_AUDIO, REAL_TIME_FACTOR, UNDERRUN, UNDERRUNS, AUDIO),
    *TURN_SPANS.values(),
    *(INTERRUPTIONS, VOICES_ENCODED, RATE_LIMIT_ERRORS, RESTARTS, CPU, LOOP_LAG),
)


def new_counters(workers: int) -> SharedCounters:
    """Counters for a number of workers; the master creates them before it forks."""
    return SharedCounters(FAMILIES, workers)


def count_lost(counters: SharedCounters, row: int) -> None:
    """Count requests that a dead worker had admitted and not ended as failed. Called by the master only."""
    ended = sum(sum(counters.of_row(row, each)) for each in (FINISHED, ABORTED, FAILED))
    lost = sum(counters.of_row(row, ADMITTED)) - ended
    if lost > 0:
        counters.add(row, FAILED, lost, reason="worker_died")


def protocol_of(path: str) -> str:
    return next((name for name, pattern in _PROTOCOLS if re.fullmatch(pattern, path)), OTHER)


class Metrics(Collector):
    """Counts the requests of one worker, and renders the sums of all workers.

    counters, row: where this worker counts.
    gauges: yields the current state of all workers. It may take a lock, so it is called in a thread.
    """

    def __init__(
        self,
        counters: SharedCounters,
        row: int = 0,
        gauges: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._counters = counters
        self._row = row
        self._gauges = gauges
        # Of all replicas of a cluster. Takes an Accept header, this replica's metrics of keys, the API key of who asks.
        self.render_all: Callable[[str, Collector, Any], tuple[bytes, str]] | None = None

    # ---- counting, as an observer of the request log

    def admitted(self, record: RequestRecord) -> None:
        self._counters.add(self._row, ADMITTED)

    def ended(self, record: RequestRecord) -> None:
        add, observe, row = self._counters.add, self._counters.observe, self._row
        outcome: Outcome = record.outcome or "failed"
        add(
            row,
            REQUESTS,
            protocol=protocol_of(record.path),
            format=record.format or "none",
            status="none" if record.status is None else str(record.status),
            outcome=outcome,
        )
        if record.admitted:
            if outcome == "ok":
                add(row, FINISHED)
            elif outcome == "failed" or (outcome == "refused" and record.code in FAILED.labels["reason"]):
                add(row, FAILED, reason=record.code or OTHER)
            else:
                add(row, ABORTED, reason=_ABORTED[outcome])
        if record.audio_seconds:
            add(row, AUDIO, record.audio_seconds)
        if record.first_audio_seconds is not None:
            observe(row, FIRST_AUDIO, record.first_audio_seconds)
        if record.real_time_factor is not None:
            observe(row, REAL_TIME_FACTOR, record.real_time_factor)
        if record.underrun_seconds is not None:
            observe(row, UNDERRUN, record.underrun_seconds)
            if record.underrun_seconds > 0:
                add(row, UNDERRUNS)

        for name, seconds in record.latency.items():
            observe(row, TURN_SPANS[name], seconds)

    def interrupted(self) -> None:
        self._counters.add(self._row, INTERRUPTIONS)

    def resumed(self, goes_on: bool) -> None:
        """Count a stream whose worker died. goes_on: another worker spoke on."""
        self._counters.add(self._row, RESUMED, outcome="resumed" if goes_on else "cut")

    def rate_limit_failed(self) -> None:
        self._counters.add(self._row, RATE_LIMIT_ERRORS)

    def voice_encoded(self) -> None:
        """Thread-safe."""
        self._counters.add(self._row, VOICES_ENCODED)

    # ---- rendering

    def render(self, accept: str = "", more: Collector | None = None) -> tuple[bytes, str]:
        """The exposition text and its media type, as the Accept header asks for. Blocks.

        more: metrics for this caller alone.
        """
        encode, media_type = choose_encoder(accept)
        registry = CollectorRegistry(auto_describe=False)
        for each in (self, more):
            if each is not None:
                registry.register(each)
        return encode(registry), media_type

    def collect(self) -> Iterator[Metric]:
        for family in self._counters.families:
            sums = self._counters.sums(family)
            yield _counter(family, sums) if isinstance(family, Counter) else _histogram(family, sums)
        yield from self._gauges()


def _counter(counter: Counter, sums: Sequence[float]) -> Metric:
    metric = CounterMetricFamily(counter.name, counter.help, labels=list(counter.labels))
    show_zeros = len(sums) < 10  # else only non-zero values: thousands of combinations would be zero
    for values, total in zip(counter.combinations, sums, strict=True):
        if total or show_zeros:
            metric.add_metric(values, total)
    return metric


def _histogram(histogram: Histogram, sums: Sequence[float]) -> Metric:
    *counts, total = sums
    bounds = [*(f"{float(bound)}" for bound in histogram.buckets), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts), strict=True))
    return HistogramMetricFamily(histogram.name, histogram.help, buckets=buckets, sum_value=total)
