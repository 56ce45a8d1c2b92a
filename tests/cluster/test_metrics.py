from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from app.observability.metrics import Metrics, new_counters
from app.observability.request_log import RequestRecord
from tests.cluster.ray_modules import ray_module

module = ray_module("cluster.metrics")
errors = ray_module("ray.exceptions")
CONTEXT = SimpleNamespace(deployment="Speech", app_name="csm-serve")


class NoKeys(Collector):
    def collect(self) -> list[Metric]:
        return []


def metrics_after(requests: int) -> Metrics:
    metrics = Metrics(new_counters(1))
    for _ in range(requests):
        metrics.ended(RequestRecord("1", "POST", "/tts/generate", status=200, first_audio_seconds=0.1))
    return metrics


def answer(name: str, requests: int) -> tuple[str, Any]:
    """What another replica sends."""
    return name, pickle.loads(pickle.dumps(module.families(metrics_after(requests), NoKeys())))


Scrape = Callable[..., dict[str, Metric]]


@pytest.fixture
def scrape(monkeypatch: pytest.MonkeyPatch) -> Scrape:
    """The families that replica `a` shows after two requests, when Serve's call of all replicas gives these answers;
    an exception on its own is raised."""

    def families_of(answers: list[Any] | Exception) -> dict[str, Metric]:
        def results(timeout_s: float, return_exceptions: bool) -> list[Any]:
            assert return_exceptions
            if isinstance(answers, Exception):
                raise answers
            return answers

        handle = SimpleNamespace(broadcast=lambda name, key: SimpleNamespace(results=results))
        monkeypatch.setattr(module.serve, "get_deployment_handle", lambda deployment, app: handle)
        text, media_type = module.ClusterMetrics(CONTEXT, "a", metrics_after(2)).render("", NoKeys(), None)
        assert media_type.startswith("text/plain")
        return {family.name: family for family in text_string_to_metric_families(text.decode())}

    return families_of


def totals(joined: dict[str, Metric]) -> dict[str, float]:
    return {
        each.labels["replica"]: each.value
        for each in joined["csm_requests"].samples
        if each.labels["protocol"] == "tts" and each.value
    }


def is_complete(joined: dict[str, Metric]) -> bool:
    (sample,) = joined["csm_cluster_scrape_complete"].samples
    assert sample.labels == {}
    return bool(sample.value)


def test_every_sample_keeps_its_name_and_labels_and_names_its_replica(scrape: Scrape) -> None:
    joined = scrape([answer("a", 2), answer("b", 3)])
    alone = {family.name: family for family in text_string_to_metric_families(metrics_after(1).render()[0].decode())}
    assert joined.keys() == {*alone, "csm_cluster_scrape_complete"}
    assert {name: joined[name].type for name in alone} == {name: family.type for name, family in alone.items()}
    assert {name: joined[name].documentation for name in alone} == {n: each.documentation for n, each in alone.items()}
    assert totals(joined) == {"a": 2, "b": 3}
    counts = [each for each in joined["csm_first_audio_seconds"].samples if each.name.endswith("_count")]
    assert [(each.labels, each.value) for each in counts] == [({"replica": "a"}, 2), ({"replica": "b"}, 3)]
    assert is_complete(joined)


def test_a_replica_that_does_not_answer_is_missing_and_the_scrape_says_so(scrape: Scrape) -> None:
    for failure in (TimeoutError("too slow"), errors.RayActorError()):
        joined = scrape([answer("a", 2), failure, answer("c", 4)])
        assert totals(joined) == {"a": 2, "c": 4}
        assert not is_complete(joined)


def test_a_replica_shows_its_own_metrics_even_if_ray_fails(scrape: Scrape) -> None:
    unavailable = ray_module("ray.serve.exceptions").DeploymentUnavailableError(SimpleNamespace(name="Speech"))
    for failure in (TimeoutError("no controller"), errors.RayActorError(), unavailable):
        joined = scrape(failure)
        assert totals(joined) == {"a": 2}
        assert not is_complete(joined)


def test_a_replica_that_serve_does_not_count_yet_shows_its_own_metrics(scrape: Scrape) -> None:
    joined = scrape([answer("b", 3)])
    assert totals(joined) == {"a": 2, "b": 3}
    assert is_complete(joined)
