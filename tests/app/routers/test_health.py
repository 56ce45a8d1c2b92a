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

PATHS = ("/health", "/livez", "/readyz")


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def statuses(app: Any) -> list[int]:
    async with client_of(app) as client:
        return [(await client.get(path)).status_code for path in PATHS]


async def test_while_it_loads_and_when_it_is_ready(settings: Settings, wait: Any) -> None:
    settings = settings.model_copy(update={"model_path": None})
    go_on, reached = threading.Event(), threading.Event()

    def load(config: EngineConfig, progress: Progress) -> Engine:
        progress(0.5, "reading weights")
        reached.set()
        go_on.wait(60)
        return FakeEngine()

    app = create_app(settings, WorkerAssignment(1, "GPU-7"), load)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await wait(reached.is_set)
        assert await statuses(app) == [202, 200, 503]
        unit = (await client.get("/health")).json()["tts_engines"]["gpu_1"]
        assert (unit["state"], unit["progress"], unit["doing"]) == ("loading", 0.4, "reading weights")
        refused = await client.get("/tts/generate", params={"text": "Hi", "api_key": "first-key"})
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        go_on.set()
        await wait(lambda: app.state.service.host.status().state == "ready")
        assert await statuses(app) == [200, 200, 200]
        health = (await client.get("/health")).json()
        assert health["status"] == "ok"
        assert health["tts_engines"]["gpu_1"]["engine"] == "fake"
    assert await statuses(app) == [503, 200, 503]


async def test_when_the_engine_cannot_start(settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"model_path": "fake:load_fails=true"})) as app:
        assert await statuses(app) == [500, 503, 503]
        async with client_of(app) as client:
            assert "as asked for" in (await client.get("/health")).json()["tts_engines"]["cpu_0"]["error"]
            refused = await client.get("/tts/generate", params={"text": "Hi", "api_key": "first-key"})
            assert (refused.status_code, refused.json()["code"]) == (503, "engine_failed")


async def test_when_the_engine_breaks_later(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        broken = await client.get("/tts/generate", params={"text": "[break]", "api_key": "first-key"})
        assert broken.status_code == 500
        assert await statuses(app) == [500, 503, 503]


async def test_an_error_of_any_kind_is_told(settings: Settings, run: Any) -> None:
    def load(config: EngineConfig, progress: Progress) -> Engine:
        raise RuntimeError("the driver is too old")

    async with run(settings.model_copy(update={"model_path": "m"}), loader=load) as app:
        assert app.state.service.host.status().error == "the driver is too old"


async def test_when_every_part_works(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        health = (await client.get("/health")).json()
        assert health["status"] == "ok"
        works = {"state": "ok", "error": None, "workers": []}
        assert health["components"] == {
            "voice_decoder": works,
            "encoders": works,
            "threads": works,
            "speaker_voices": {**works, "state": "unchecked"},  # this engine has voices of its own
        }


async def test_a_decoder_that_does_not_start_is_known_before_the_first_upload_and_until_it_does(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    headers = {"X-API-Key": "first-key"}
    async with run(settings) as app, client_of(app) as client:
        assert await statuses(app) == [200, 200, 200]  # it speaks
        health = (await client.get("/health")).json()
        assert health["status"] == "degraded"
        part = health["components"]["voice_decoder"]
        assert (part["state"], part["workers"]) == ("failed", ["0"])
        assert "exit code 1" in part["error"]
        assert (await client.get("/system-status", headers=headers)).json()["components"] == health["components"]
        text = (await client.get("/metrics", headers=headers)).text
        assert 'csm_component_failed{component="voice_decoder",worker="0"} 1.0' in text
        amy = {"file": ("amy.wav", recording())}
        for _ in range(2):
            refused = await client.post("/voices", files=amy, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (503, "decoder_failed")
            assert all(word in refused.json()["detail"] for word in ("decoder", "does not start", "log"))
            assert "try again" not in refused.json()["detail"]
            assert "Retry-After" not in refused.headers
        errors = [each for each in caplog.records if each.levelname == "ERROR"]
        assert len(errors) == 1
        assert "exit code 1" in errors[0].getMessage()
        monkeypatch.undo()
        assert (await client.post("/voices", files=amy, headers=headers)).status_code == 201
        health = (await client.get("/health")).json()
        assert (health["status"], health["components"]["voice_decoder"]["state"]) == ("ok", "ok")


async def test_a_format_without_its_codec_is_known_before_it_is_asked_for(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILES, "opus", replace(PROFILES["opus"], codec="libnothing"))
    async with run(settings) as app, client_of(app) as client:
        health = (await client.get("/health")).json()
        assert (health["status"], health["components"]["encoders"]["state"]) == ("degraded", "failed")
        assert "opus: cannot encode libnothing" in health["components"]["encoders"]["error"]
        query = {"text": "Hi", "api_key": "first-key"}
        refused = await client.get("/tts/generate", params={**query, "format": "opus"})
        assert (refused.status_code, refused.json()["code"]) == (503, "encoder_failed")
        assert "format opus cannot be encoded" in refused.json()["detail"]
        assert "Retry-After" not in refused.headers
        for format_name in ("wav", "mp3", "webm"):
            spoken = await client.get("/tts/generate", params={**query, "format": format_name})
            assert spoken.status_code == 200


async def test_parts_are_those_of_all_workers() -> None:
    registry = WorkerRegistry([WorkerAssignment(index) for index in range(3)])
    for index, error in enumerate(("", "no codec", "no muxer")):
        status = ComponentStatus("failed", error) if error else ComponentStatus("ok")
        registry.update(index, "ready", components={**dict.fromkeys(COMPONENTS, ComponentStatus()), "encoders": status})
    assert health_of(registry.records()) == "degraded"
    told = components_of(registry.records())
    assert told["encoders"] == ComponentHealth(state="failed", error="no codec", workers=["1", "2"])
    assert told["threads"] == ComponentHealth(state="unchecked", error=None, workers=[])


@pytest.mark.parametrize(
    ("states", "word"),
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
async def test_one_word_for_many_workers(states: list[State], word: str) -> None:
    registry = WorkerRegistry([WorkerAssignment(index) for index in range(len(states))])
    for index, state in enumerate(states):
        registry.update(index, state)
    assert health_of(registry.records()) == word
