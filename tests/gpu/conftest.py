from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import EngineConfig, load_engine
from engine.engine_core import CsmEngine
from engine.random_checkpoint import TINY, build_model, write_checkpoint

# Small kernels first, then what loads engines or compiles much: a session on a rented GPU learns the most in its first
# seconds.
ORDER = (
    *("test_kv_restore", "test_int8_linear", "test_persistent_depth", "test_prompt_attention", "test_codec_kernels"),
    *(
        "test_fused_step",
        "test_ragged_attention",
        "test_fused_prefill",
        "test_batch_invariance",
        "test_prefill_streams",
    ),
    *("test_frame_pipeline", "test_engine", "test_fused_engine", "test_torch_compile"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files of this folder by ORDER, among themselves."""
    here = Path(__file__).parent
    places = [place for place, item in enumerate(items) if item.path.parent == here]
    ordered = sorted((items[place] for place in places), key=lambda item: ORDER.index(item.path.stem))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


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
