from __future__ import annotations

import time
from dataclasses import replace

from app.observability.components import ComponentStatus
from app.pool.worker_gauges import worker_gauges
from app.pool.worker_registry import WorkerRecord

WORKER = WorkerRecord(
    worker_id="0",
    unit="gpu_0",
    gpu="0",
    has_engine=True,
    serves_http=True,
    pid=7,
    state="ready",
    engine="csm",
    model="fake",
    progress=1.0,
    doing="",
    error="",
    active=3,
    capacity=4,
    queued=2,
    load=5,
    heartbeat=time.monotonic(),
    failures=0,
    retry_at=0.0,
    ready_since=1.0,
    components={"voice_decoder": ComponentStatus("failed", "it is gone"), "encoders": ComponentStatus("ok")},
)


def test_each_worker_has_a_sample_in_every_family_and_one_state() -> None:
    other = replace(WORKER, worker_id="1", state="failed", active=0, capacity=0, queued=0, heartbeat=0.0)
    seen = {
        (sample.name, *sample.labels.values()): sample.value
        for family in worker_gauges([WORKER, other])
        for sample in family.samples
    }
    assert seen["csm_slots_active", "0"] == 3
    assert seen["csm_slots_capacity", "0"] == 4
    assert seen["csm_requests_queued", "0"] == 2
    assert seen["csm_worker_silent_seconds", "0"] >= 0
    assert ("csm_worker_silent_seconds", "1") not in seen  # no heartbeat yet
    states = {key[1:] for key, value in seen.items() if key[0] == "csm_worker_state" and value == 1}
    assert states == {("0", "ready"), ("1", "failed")}
    assert seen["csm_component_failed", "0", "voice_decoder"] == 1
    assert seen["csm_component_failed", "0", "encoders"] == 0
