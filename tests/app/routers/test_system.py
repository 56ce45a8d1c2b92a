from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from app.pool.assignment import WorkerAssignment
from app.settings import Settings
from tests.app.observability.test_system_status import FakeDriver

pytestmark = pytest.mark.anyio

KEY = {"X-API-Key": "first-key"}


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service", headers=KEY)


async def test_system_status_without_a_gpu(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        status = (await client.get("/system-status")).json()
    assert set(status) == {"cpu", "gpu", "gpus", "workers", "components", "keys"}
    assert set(status["cpu"]) == {"utilization_percent", "cores", "ram_gb"}
    assert set(status["cpu"]["ram_gb"]) == {"total", "used", "free", "percent_used"}
    assert (status["gpu"], status["gpus"]) == (None, [])
    (worker,) = status["workers"]
    assert set(worker) == {"worker_id", "pid", "gpu", "engine", "state", "active", "capacity", "queued"}
    assert (worker["engine"], worker["state"], worker["capacity"], worker["gpu"]) == ("fake", "ready", 2, None)


async def test_system_status_with_a_gpu(settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeDriver(monkeypatch)
    async with run(settings, assignment=WorkerAssignment(0, "1")) as app, client_of(app) as client:
        status = (await client.get("/system-status")).json()
    assert status["gpus"] == [status["gpu"]]
    assert status["gpu"] == {
        "device_id": 1,
        "utilization_percent": {"gpu": 41, "memory": 7},
        "memory_gb": {"total": 80.0, "used": 20.0, "free": 60.0},
    }
    assert status["workers"][0]["gpu"] == "1"


async def test_active_requests_are_counted(settings: Settings, run: Any, call: Any, wait: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        request = call(app, "/tts/generate", query=b"text=[hang]")
        while (await client.get("/system-status")).json()["workers"][0]["active"] == 0:
            await asyncio.sleep(0.002)
        while "csm_requests_admitted_total 1.0" not in (text := (await client.get("/metrics")).text):
            await asyncio.sleep(0.002)
        assert 'csm_slots_active{worker="0"} 1.0' in text
        request.leave()
        await request.done()
        text = (await client.get("/metrics")).text
        assert 'csm_requests_aborted_total{reason="client_left"} 1.0' in text


async def test_metrics_in_prometheus_formats(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        assert (await client.get("/tts/generate", params={"text": "Hello"})).status_code == 200
        response = await client.get("/metrics")
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "csm_requests_finished_total 1.0" in response.text
        assert "csm_audio_seconds_total 0.4" in response.text
        response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize("path", ["/system-status", "/metrics"])
async def test_both_routes_need_a_key(settings: Settings, run: Any, path: str) -> None:
    async with run(settings) as app, client_of(app) as client:
        assert (await client.get(path, headers={"X-API-Key": "wrong"})).status_code == 401
