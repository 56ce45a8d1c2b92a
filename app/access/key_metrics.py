"""Prometheus metrics by the name of the API key. Their number is bounded by that of the keys, at most MAX_KEYS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .api_keys import ApiKey
from .limiter import KeyLimiter


class KeyMetrics(Collector):
    """The use of some keys since the service started, on this machine; keys that were not used are left out."""

    def __init__(self, limiter: KeyLimiter, keys: Sequence[ApiKey]) -> None:
        self._limiter, self._keys = limiter, keys

    def collect(self) -> Iterator[Metric]:
        yield from _metrics(self._limiter, self._keys)


def _metrics(limiter: KeyLimiter, keys: Sequence[ApiKey]) -> Iterator[Metric]:
    requests = CounterMetricFamily("csm_key_requests_total", "Requests for speech of an API key.", labels=["key"])
    audio = CounterMetricFamily(
        "csm_key_audio_seconds_total", "Seconds of audio delivered to an API key.", labels=["key"]
    )
    refusals = CounterMetricFamily(
        "csm_key_refused_total", "Requests refused by a limit of their API key.", labels=["key", "limit"]
    )
    slots = GaugeMetricFamily("csm_key_slots", "Slots that requests of an API key wait for or hold.", labels=["key"])
    for key in keys:
        count, seconds, refused = limiter.totals(key)
        if count:
            requests.add_metric([key.name], count)
            audio.add_metric([key.name], seconds)
            slots.add_metric([key.name], limiter.active(key))
        for limit, times in refused.items():
            if times:
                refusals.add_metric([key.name, limit], times)
    yield from (requests, audio, refusals, slots)
