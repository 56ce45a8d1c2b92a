from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import EngineConfig, VoicePrompt, load_engine
from engine.engine_core import CsmEngine

from . import checkpoints


@pytest.fixture(scope="session")
def model() -> Any:
    """The transformers model whose weights `checkpoint` contains."""
    return checkpoints.build_model()


@pytest.fixture(scope="session")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoint"), model)


@pytest.fixture
def load() -> Iterator[Callable[..., CsmEngine]]:
    """Loads engines, by default float32 on the CPU, and closes them after the test."""
    opened: list[CsmEngine] = []

    def load_one(directory: Path, **changes: Any) -> CsmEngine:
        config = {"device": "cpu", "dtype": "float32", "slots": 4} | changes
        engine = load_engine(EngineConfig(model=str(directory), **config))
        assert isinstance(engine, CsmEngine)
        opened.append(engine)
        return engine

    yield load_one
    for engine in opened:
        engine.close()
        assert not engine._thread.is_alive()


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[CsmEngine]:
    """One engine for all tests of a module that only send it requests."""
    engine = load_engine(EngineConfig(model=str(checkpoint), device="cpu", dtype="float32", slots=4))
    assert isinstance(engine, CsmEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def voice() -> VoicePrompt:
    """Half a second of noise with a transcript, not a whole number of frames."""
    rng = np.random.default_rng(5)
    return VoicePrompt(rng.normal(0, 0.1, 12_345).astype(np.float32), transcript="These are my words.")
