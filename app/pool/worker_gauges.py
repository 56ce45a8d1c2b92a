"""Prometheus gauges of every worker: slots, queue, state, heartbeat age and failed components."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from .worker_registry import STATES, WorkerRecord


def worker_gauges(workers: Sequence[WorkerRecord]) -> Iterator[Metric]:
    """One sample per worker in each family; csm_worker_state has one per state."""
    now = time.monotonic()
    active = GaugeMetricFamily("csm_slots_active", "Slots in use.", labels=["worker"])
    capacity = GaugeMetricFamily("csm_slots_capacity", "Slots in all.", labels=["worker"])
    queued = GaugeMetricFamily("csm_requests_queued", "Requests that wait for a slot.", labels=["worker"])
    silent = GaugeMetricFamily("csm_worker_silent_seconds", "Since a worker's last heartbeat.", labels=["worker"])
    failed = GaugeMetricFamily(
        "csm_component_failed",
        "1 if a component beside the engine does not work; /health has the reason.",
        labels=["worker", "component"],
    )
    state = GaugeMetricFamily("csm_worker_state", "1 for the worker's current state.", labels=["worker", "state"])
    for each in workers:
        active.add_metric([each.worker_id], each.active)
        capacity.add_metric([each.worker_id], each.capacity)
        queued.add_metric([each.worker_id], each.queued)
        if each.heartbeat:
            silent.add_metric([each.worker_id], max(now - each.heartbeat, 0.0))
        for name in STATES:
            state.add_metric([each.worker_id, name], float(name == each.state))
        for component, status in each.components.items():
            failed.add_metric([each.worker_id, component], float(status.state == "failed"))
    yield from (active, capacity, queued, silent, state, failed)
