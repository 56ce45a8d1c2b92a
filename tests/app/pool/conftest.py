from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.pool.assignment import WorkerAssignment
from app.pool.engine_host import EngineHost
from app.pool.pool import Pool
from app.pool.worker_registry import WorkerRegistry
from app.schemas.speech import SpeechJob
from app.settings import Settings
from app.voices.store import VoiceStore
from engine import SpeechRequest

Workers = Callable[..., Any]


@pytest.fixture
def workers(settings: Settings, tmp_path_factory: pytest.TempPathFactory, wait: Any) -> Workers:
    """Starts some workers, all in this process: each has its own engine, its own socket, and the registry for all."""

    @asynccontextmanager
    async def start(count: int, queue_seconds: float = 30.0, **changes: object) -> AsyncIterator[list[Pool]]:
        changed = settings.model_copy(update=changes)
        registry = WorkerRegistry([WorkerAssignment(index) for index in range(count)])
        folder: Path = tmp_path_factory.mktemp("s")
        pools = []
        async with AsyncExitStack() as stack:
            for index in range(count):
                assert registry.claim(1000 + index) == index
                voices = VoiceStore(changed.preloaded_voices_dir, changed.voices_dir)
                host = EngineHost(changed, WorkerAssignment(index), voices)
                pool = Pool(registry, index, host, folder, queue_seconds)
                await pool.start(lambda: None)
                stack.push_async_callback(pool.close)
                pools.append(pool)
            await wait(lambda: all(each.state == "ready" for each in registry.records()))
            yield pools

    return start


@pytest.fixture
def job() -> Callable[..., SpeechJob]:
    def make(text: str = "x" * 4000, voice_id: str | None = None, **speech: Any) -> SpeechJob:
        return SpeechJob(SpeechRequest(text, slice_frames=5, **speech), voice_id)

    return make
