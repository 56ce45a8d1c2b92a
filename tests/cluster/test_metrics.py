from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from app.observability.metrics import Metrics, new_counters
from app.observability.request_log import RequestRecord
from tests.cluster.ray_modules import ray_module

join = ray_module("cluster.metrics").join


def exposition(requests: int) -> str:
    metrics = Metrics(new_counters(1))
    for _ in range(requests):
        metrics.ended(RequestRecord("1", "POST", "/tts/generate", status=200, first_audio_seconds=0.1))
    return metrics.render()[0].decode()


def test_every_sample_keeps_its_name_and_labels_and_names_its_replica() -> None:
    text, media_type = join([("a", exposition(2)), ("b", exposition(3))])
    assert media_type.startswith("text/plain")
    joined = {family.name: family for family in text_string_to_metric_families(text.decode())}
    alone = {family.name: family for family in text_string_to_metric_families(exposition(1))}
    assert joined.keys() == alone.keys()
    assert {name: family.type for name, family in joined.items()} == {n: family.type for n, family in alone.items()}
    totals = {
        each.labels["replica"]: each.value
        for each in joined["csm_requests"].samples
        if each.labels["protocol"] == "tts" and each.value
    }
    assert totals == {"a": 2, "b": 3}
    counts = [each for each in joined["csm_first_audio_seconds"].samples if each.name.endswith("_count")]
    assert [(each.labels, each.value) for each in counts] == [({"replica": "a"}, 2), ({"replica": "b"}, 3)]
