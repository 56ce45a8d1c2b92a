"""Metrics of all replicas in one scrape: each replica's own, with a label for the replica."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from .options import SCRAPE_COMPLETE

if TYPE_CHECKING:
    from ray.serve.context import ReplicaContext

    from app.access.api_keys import ApiKey
    from app.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_SECONDS = 5.0  # that the replicas may take to answer; Prometheus gives a scrape ten

Families = Sequence[Metric]  # of one replica: picklable, so replicas exchange them as they are


class Joined(Collector):
    """All samples of all replicas, by name. complete: every running replica is among them.

    A sum over replicas would fall when one leaves, which Prometheus takes for a restart: so each series names its
    replica.
    """

    def __init__(self, replicas: dict[str, Families], *, complete: bool) -> None:
        self._replicas, self._complete = replicas, complete

    def collect(self) -> Iterator[Metric]:
        joined: dict[str, Metric] = {}
        for replica, families in self._replicas.items():
            for family in families:
                metric = joined.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    metric.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
        yield from joined.values()
        yield GaugeMetricFamily(
            SCRAPE_COMPLETE,
            "1 if every running replica answered this scrape; 0: those that did not are missing from it.",
            value=float(self._complete),
        )


def families(metrics: Metrics, keys: Collector) -> Families:
    """This replica's own. keys: metrics of the keys that the caller may see. Blocks, so call it in a thread."""
    return [*metrics.collect(), *keys.collect()]


class ClusterMetrics:
    """Asks all replicas of this deployment. One that does not answer in time is missing from that scrape.

    name, metrics: of this replica. They are in every scrape that it answers, also when Ray fails.
    """

    def __init__(self, context: ReplicaContext, name: str, metrics: Metrics) -> None:
        self._context, self._name, self._metrics = context, name, metrics

    def render(self, accept: str, keys: Collector, key: ApiKey | None) -> tuple[bytes, str]:
        """The exposition text and its media type, as the Accept header asks for.

        keys: metrics of keys in this replica. key: whose caller reads them. Blocks, so call it in a thread.
        """
        answers = self._ask(key)
        replicas = dict(each for each in answers if each is not None)
        if self._name not in replicas:
            replicas[self._name] = families(self._metrics, keys)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Joined(replicas, complete=None not in answers))
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type

    def _ask(self, key: ApiKey | None) -> list[tuple[str, Families] | None]:
        """Of each running replica its name and metrics; None for one that does not answer."""
        try:
            handle = serve.get_deployment_handle(self._context.deployment, self._context.app_name)
            answers = handle.broadcast("own_metrics", key).results(timeout_s=_SECONDS, return_exceptions=True)
        except (RayError, RayServeException, TimeoutError) as error:
            _log.warning("the metrics are those of this replica alone: %r", error)
            return [None]
        for each in answers:
            if isinstance(each, BaseException):
                _log.warning("a replica is missing from the metrics: %r", each)
        return [None if isinstance(each, BaseException) else each for each in answers]
