from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import EngineConfig, load_engine
from engine.engine_core import CsmEngine
from engine.random_checkpoint import TINY, build_model, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), build_model(TINY))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable TF32, which rounds to ten bits: cuDNN uses it by default and loading on a GPU enables it.

    Graphs keep the setting they were captured with, so loading is prevented from enabling it.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)


@pytest.fixture
def load(checkpoint: Path, exact: None) -> Iterator[Callable[..., CsmEngine]]:
    """Loads engines, by default float32 on the GPU without compilation and graphs, and closes them after the test."""
    opened: list[CsmEngine] = []

    def load_one(device: str = "cuda", **changes: Any) -> CsmEngine:
        config = {"dtype": "float32", "compile": "off", "slots": 8} | changes
        engine = load_engine(EngineConfig(model=str(checkpoint), device=device, **config))
        assert isinstance(engine, CsmEngine)
        opened.append(engine)
        return engine

    yield load_one
    for engine in opened:
        engine.close()
