"""Metrics of all replicas in one scrape: each replica's own, with a label for the replica."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from ray import serve

if TYPE_CHECKING:
    from ray.serve.context import ReplicaContext

    from app.access.api_keys import ApiKey

_log = logging.getLogger(__name__)

_SECONDS = 5.0  # that the replicas may take to answer


class _Joined(Collector):
    """expositions: (replica, its metrics in the text format). A sum over replicas would fall when one leaves, which
    Prometheus takes for a restart: so each series names its replica."""

    def __init__(self, expositions: Iterable[tuple[str, str]]) -> None:
        self._families: dict[str, Metric] = {}
        for replica, text in expositions:
            for family in text_string_to_metric_families(text):
                joined = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    joined.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()


def join(expositions: Iterable[tuple[str, str]], accept: str = "") -> tuple[bytes, str]:
    """The exposition text of all replicas and its media type, as the Accept header asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Joined(expositions))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class ClusterMetrics:
    """Asks all replicas of this deployment. A replica that does not answer in time is missing from that scrape."""

    def __init__(self, context: ReplicaContext) -> None:
        self._context = context

    def render(self, accept: str, key: ApiKey | None) -> tuple[bytes, str]:
        """key: whose caller reads them. Blocks, so call it in a thread."""
        handle = serve.get_deployment_handle(self._context.deployment, self._context.app_name)
        answers = handle.broadcast("exposition", key).results(timeout_s=_SECONDS, return_exceptions=True)
        for each in answers:
            if isinstance(each, BaseException):
                _log.warning("a replica is missing from the metrics: %s", each)
        return join([each for each in answers if not isinstance(each, BaseException)], accept)
