from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.audio.encoders.profiles import PROFILES
from app.main import create_app
from app.observability.components import COMPONENTS, ComponentStatus
from app.pool.assignment import WorkerAssignment
from app.pool.worker_registry import State, WorkerRegistry
from app.routers.health import ComponentHealth, components_of, health_of
from app.settings import Settings
from engine import Engine, EngineConfig, Progress
from engine.testing import FakeEngine
from tests.app.voices.recordings import recording

pytestmark = pytest.mark.anyio

PATHS = ("/health", "/livez", "/readyz", "/ping")


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def statuses(app: Any) -> list[int]:
    async with client_of(app) as client:
        return [(await client.get(path)).status_code for path in PATHS]


async def test_while_loading_and_when_ready(settings: Settings, wait: Any) -> None:
    settings = settings.model_copy(update={"model_path": None})
    resume, reached = threading.Event(), threading.Event()

    def load(config: EngineConfig, progress: Progress) -> Engine:
        progress(0.5, "reading weights")
        reached.set()
        resume.wait(60)
        return FakeEngine()

    app = create_app(settings, WorkerAssignment(1, "GPU-7"), load)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await wait(reached.is_set)
        assert await statuses(app) == [202, 200, 503, 204]
        unit = (await client.get("/health")).json()["tts_engines"]["gpu_1"]
        assert (unit["state"], unit["progress"], unit["doing"]) == ("loading", 0.4, "reading weights")
        rejected = await client.get("/tts/generate", params={"text": "Hi", "api_key": "first-key"})
        assert rejected.status_code == 503
        assert int(rejected.headers["Retry-After"]) > 0
        resume.set()
        await wait(lambda: app.state.service.host.status().state == "ready")
        assert await statuses(app) == [200, 200, 200, 200]
        health = (await client.get("/health")).json()
        assert health["status"] == "ok"
        assert health["tts_engines"]["gpu_1"]["engine"] == "fake"
    assert await statuses(app) == [503, 200, 503, 503]


async def test_when_the_engine_fails_to_load(settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"model_path": "fake:load_fails=true"})) as app:
        assert await statuses(app) == [500, 503, 503, 503]
        async with client_of(app) as client:
            assert "as asked for" in (await client.get("/health")).json()["tts_engines"]["cpu_0"]["error"]
            rejected = await client.get("/tts/generate", params={"text": "Hi", "api_key": "first-key"})
            assert (rejected.status_code, rejected.json()["code"]) == (503, "engine_failed")


async def test_when_the_engine_fails_later(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        response = await client.get("/tts/generate", params={"text": "[break]", "api_key": "first-key"})
        assert response.status_code == 500
        assert await statuses(app) == [500, 503, 503, 503]


async def test_any_load_error_is_reported(settings: Settings, run: Any) -> None:
    def load(config: EngineConfig, progress: Progress) -> Engine:
        raise RuntimeError("the driver is too old")

    async with run(settings.model_copy(update={"model_path": "m"}), loader=load) as app:
        assert app.state.service.host.status().error == "the driver is too old"


async def test_when_every_component_works(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        health = (await client.get("/health")).json()
        assert health["status"] == "ok"
        assert health["stt"] == app.state.realtime.transcriber.name
        ok = {"state": "ok", "error": None, "workers": []}
        assert health["components"] == {
            "voice_decoder": ok,
            "encoders": ok,
            "threads": ok,
            "speaker_voices": {**ok, "state": "unchecked"},  # the fake engine has built-in voices
            "voice_storage": {**ok, "state": "unchecked"},  # there is none
        }


async def test_a_failed_decoder_is_reported_before_the_first_upload_and_until_it_starts(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    headers = {"X-API-Key": "first-key"}
    async with run(settings) as app, client_of(app) as client:
        assert await statuses(app) == [200, 200, 200, 200]  # speech works
        health = (await client.get("/health")).json()
        assert health["status"] == "degraded"
        component = health["components"]["voice_decoder"]
        assert (component["state"], component["workers"]) == ("failed", ["0"])
        assert "exit code 1" in component["error"]
        assert (await client.get("/system-status", headers=headers)).json()["components"] == health["components"]
        text = (await client.get("/metrics", headers=headers)).text
        assert 'csm_component_failed{component="voice_decoder",worker="0"} 1.0' in text
        amy = {"file": ("amy.wav", recording())}
        for _ in range(2):
            rejected = await client.post("/voices", files=amy, headers=headers)
            assert (rejected.status_code, rejected.json()["code"]) == (503, "decoder_failed")
            assert all(word in rejected.json()["detail"] for word in ("decoder", "does not start", "log"))
            assert "try again" not in rejected.json()["detail"]
            assert "Retry-After" not in rejected.headers
        errors = [each for each in caplog.records if each.levelname == "ERROR"]
        assert len(errors) == 1
        assert "exit code 1" in errors[0].getMessage()
        monkeypatch.undo()
        assert (await client.post("/voices", files=amy, headers=headers)).status_code == 201
        health = (await client.get("/health")).json()
        assert (health["status"], health["components"]["voice_decoder"]["state"]) == ("ok", "ok")


async def test_a_missing_codec_is_reported_before_the_first_request(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILES, "opus", replace(PROFILES["opus"], codec="libnothing"))
    async with run(settings) as app, client_of(app) as client:
        health = (await client.get("/health")).json()
        assert (health["status"], health["components"]["encoders"]["state"]) == ("degraded", "failed")
        assert "opus: cannot encode libnothing" in health["components"]["encoders"]["error"]
        query = {"text": "Hi", "api_key": "first-key"}
        rejected = await client.get("/tts/generate", params={**query, "format": "opus"})
        assert (rejected.status_code, rejected.json()["code"]) == (503, "encoder_failed")
        assert "format opus cannot be encoded" in rejected.json()["detail"]
        assert "Retry-After" not in rejected.headers
        for format_name in ("wav", "mp3", "webm"):
            response = await client.get("/tts/generate", params={**query, "format": format_name})
            assert response.status_code == 200


async def test_components_cover_all_workers() -> None:
    registry = WorkerRegistry([WorkerAssignment(index) for index in range(3)])
    for index, error in enumerate(("", "no codec", "no muxer")):
        status = ComponentStatus("failed", error) if error else ComponentStatus("ok")
        registry.update(index, "ready", components={**dict.fromkeys(COMPONENTS, ComponentStatus()), "encoders": status})
    assert health_of(registry.records()) == "degraded"
    components = components_of(registry.records())
    assert components["encoders"] == ComponentHealth(state="failed", error="no codec", workers=["1", "2"])
    assert components["threads"] == ComponentHealth(state="unchecked", error=None, workers=[])


@pytest.mark.parametrize(
    ("states", "health"),
    [
        (["ready", "ready"], "ok"),
        (["ready", "loading", "restarting", "empty"], "ok"),
        (["ready", "failed"], "degraded"),
        (["failed", "loading"], "loading"),
        (["failed", "restarting"], "loading"),
        (["draining", "failed"], "draining"),
        (["draining", "empty"], "draining"),
        (["failed", "empty"], "loading"),
        (["failed", "failed"], "failed"),
    ],
)
async def test_health_of_several_workers(states: list[State], health: str) -> None:
    registry = WorkerRegistry([WorkerAssignment(index) for index in range(len(states))])
    for index, state in enumerate(states):
        registry.update(index, state)
    assert health_of(registry.records()) == health


@pytest.mark.parametrize(
    ("engine", "http", "health"),
    [
        ("loading", "ready", "loading"),
        ("failed", "ready", "failed"),
        ("draining", "ready", "draining"),
        ("ready", "ready", "ok"),
        ("ready", "failed", "degraded"),
    ],
)
async def test_health_follows_the_engines(engine: State, http: State, health: str) -> None:
    registry = WorkerRegistry([WorkerAssignment(role="engine"), WorkerAssignment(1, role="http")])
    registry.update(0, engine)
    registry.update(1, http)
    assert health_of(registry.records()) == health
