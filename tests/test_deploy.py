"""What docs/deploy/ holds for clusters: Kubernetes and Ray accept the manifests, dashboards ask for what exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.core import Metric

from app.observability.metrics import FAMILIES, Metrics, new_counters
from app.observability.shared_counters import Counter
from app.pool.assignment import WorkerAssignment
from app.pool.worker_gauges import worker_gauges
from app.pool.worker_registry import WorkerRegistry
from app.settings import Settings
from cluster.config import serve_config
from cluster.options import SCRAPE_COMPLETE
from tests.cluster.ray_modules import valid_config

DEPLOY = Path(__file__).resolve().parent.parent / "docs/deploy"
KUBERNETES = DEPLOY / "kubernetes"
NEWEST = kubernetes_validate.latest_version()


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def check(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, NEWEST, strict=True)


def kind(name: str) -> dict[str, Any]:
    (found,) = [each for each in documents(KUBERNETES / "csm-serve.yaml") if each["kind"] == name]
    return found


@pytest.fixture(scope="module")
def ray_service() -> dict[str, Any]:
    (found,) = documents(DEPLOY / "ray/rayservice.yaml")
    return found


@pytest.mark.parametrize("name", ["volumes.yaml", "csm-serve.yaml"])
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    found = documents(KUBERNETES / name)
    assert found
    for each in found:
        check(each)


def test_a_misspelt_field_is_refused() -> None:
    deployment = kind("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment)


def test_the_parts_belong_together() -> None:
    deployment, service, budget = kind("Deployment"), kind("Service"), kind("PodDisruptionBudget")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"] == labels
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports[service["spec"]["ports"][0]["targetPort"]] == Settings.model_fields["port"].default
    claims = {each["metadata"]["name"] for each in documents(KUBERNETES / "volumes.yaml")}
    used = [
        each["persistentVolumeClaim"]["claimName"] for each in deployment["spec"]["template"]["spec"]["volumes"][:2]
    ]
    assert set(used) == claims


def test_a_pod_outlives_the_graceful_timeout_and_answers_its_probes() -> None:
    pod = kind("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > Settings.model_fields["graceful_timeout_seconds"].default + 5
    (container,) = pod["containers"]
    probes = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"/readyz", "/livez"}


def test_keda_scales_the_deployment_by_metrics_that_exist() -> None:
    (scaled,) = documents(KUBERNETES / "autoscaling.yaml")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    assert spec["scaleTargetRef"]["name"] == kind("Deployment")["metadata"]["name"]
    (trigger,) = spec["triggers"]
    check_query(trigger["metadata"]["query"])
    assert float(trigger["metadata"]["threshold"]) == Settings.model_fields["cluster_target_load"].default
    autoscaler = {  # what KEDA makes of it
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "csm-serve"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", **spec["scaleTargetRef"]},
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
            **spec["advanced"]["horizontalPodAutoscalerConfig"],
        },
    }
    check(autoscaler)


def test_the_pods_of_the_ray_service_are_valid(ray_service: dict[str, Any]) -> None:
    cluster = ray_service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        check({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": group["template"]})
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    (gpu,) = cluster["workerGroupSpecs"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert gpu["minReplicas"] <= gpu["replicas"] <= gpu["maxReplicas"]


def test_the_ray_service_holds_the_generated_config(ray_service: dict[str, Any], settings: Settings) -> None:
    held = yaml.safe_load(ray_service["spec"]["serveConfigV2"])
    valid_config(held)
    defaults = {name: Settings.model_fields[name].default for name in ("host", "port")}
    assert held == serve_config(settings.model_copy(update={**defaults, "cluster_max_replicas": 8}), gpus=1)


# ---- queries


def metrics() -> dict[str, set[str]]:
    """The labels of each metric, by the names that queries use."""
    known: dict[str, set[str]] = {}
    for family in FAMILIES:
        if isinstance(family, Counter):
            known[family.name] = set(family.labels)
        else:
            known[f"{family.name}_bucket"] = {"le"}
            known[f"{family.name}_count"] = known[f"{family.name}_sum"] = set()
    gauges: list[Metric] = list(worker_gauges(WorkerRegistry([WorkerAssignment()]).records()))
    for gauge in gauges:
        known[gauge.name] = set(gauge.samples[0].labels) if gauge.samples else {"worker"}
    known[SCRAPE_COMPLETE] = set()
    assert len(known) > len(FAMILIES)
    assert {metric.name for metric in Metrics(new_counters(1)).collect()}
    return known


def check_query(query: str) -> None:
    """Every metric exists, and has the labels that are selected or grouped by."""
    known = metrics()
    named = re.findall(r"\b(csm_[a-z_]+)(?:\{([^}]*)\})?", query)
    assert named, query
    for name, selected in named:
        assert name in known, query
        assert set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", selected)) <= known[name], query
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert {each.strip() for each in grouped.split(",")} <= set().union(*(known[name] for name, _ in named)), query
    assert query.count("(") == query.count(")"), query


def test_every_query_of_the_dashboard_asks_for_what_exists() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    for query in queries:
        check_query(query)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    (variable,) = board["templating"]["list"]
    assert all(panel["datasource"]["uid"] == f"${{{variable['name']}}}" for panel in board["panels"])


def test_every_alert_asks_for_what_exists() -> None:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    queries = [rule["expr"] for rule in group["rules"] if "csm_" in rule["expr"]]
    assert len(queries) > 5
    for query in queries:
        check_query(query)
        # what is divided has the same labels on both sides: else there is no result, and the alert is silent
        assert "/" not in query or re.search(r"sum\(.*\) / sum\(", query), query


def test_prometheus_asks_the_service_of_the_ray_cluster_and_each_pod_without_ray(ray_service: dict[str, Any]) -> None:
    ours, rays = yaml.safe_load((DEPLOY / "ray/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (container,) = ray_service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    name = ray_service["metadata"]["name"]  # KubeRay names the Service after it
    assert ours["static_configs"] == [{"targets": [f"{name}-serve-svc:{ports['serve']}"]}]
    kept = rays["relabel_configs"][0]["regex"].partition(";")[2]
    assert kept in ports
    (pods,) = yaml.safe_load((KUBERNETES / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    template = kind("Deployment")["spec"]["template"]
    port = template["spec"]["containers"][0]["ports"][0]["name"]
    assert pods["relabel_configs"][0]["regex"] == f"{template['metadata']['labels']['app']};{port}"


@pytest.mark.parametrize(
    "wrong", ["sum(csm_slots_busy)", 'csm_slots_active{gpu="0"}', "sum by (reason) (csm_requests_total)"]
)
def test_a_query_for_what_does_not_exist_is_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_query(wrong)
