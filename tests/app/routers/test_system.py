from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.pool.board import Board, Spot, State
from app.routers.system import health_of
from app.settings import Settings
from app.worker import Place
from engine import Engine, EngineConfig, Progress
from engine.testing import FakeEngine

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

    app = create_app(settings, Place(1, "GPU-7"), load)
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
    board = Board([Spot(str(index), f"gpu_{index}", None) for index in range(len(states))])
    for index, state in enumerate(states):
        board.tell(index, state)
    assert health_of(board.records()) == word
