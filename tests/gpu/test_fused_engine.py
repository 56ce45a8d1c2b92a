"""An engine on a CUDA device that computes with fused kernels: a seed's codes do not depend on what else is running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import EngineConfig, SpeechRequest, load_engine
from engine.engine_core import CsmEngine
from engine.random_checkpoint import TINY, build_model, write_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

# Widths that the fused kernels compute, and a tiny codec.
SHAPE: dict[str, Any] = TINY | {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "depth_hidden_size": 256, "depth_intermediate_size": 512, "depth_num_attention_heads": 4,
    "depth_num_key_value_heads": 2, "depth_head_dim": 64,
}  # fmt: skip
OTHERS = 40


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CsmEngine]:
    folder: Path = write_checkpoint(tmp_path_factory.mktemp("fused"), build_model(SHAPE, dtype=torch.bfloat16))
    engine = load_engine(EngineConfig(str(folder), "cuda", "bfloat16", slots=OTHERS + 8))
    assert isinstance(engine, CsmEngine)
    yield engine
    engine.close()
    torch.set_float32_matmul_precision("highest")


def test_fused_kernels_are_used_and_captured(engine: CsmEngine) -> None:
    detail = engine.status().detail
    assert detail["step"] == "fused kernels"
    assert detail["prefill"] == "fused kernels"
    frames = engine._runner.frames
    assert len(frames.step_graphs) == len(frames.buckets.largest_first())
    assert len(frames.general_graphs) == 0


@pytest.mark.parametrize(
    "request_alone",
    [
        SpeechRequest("The same words.", seed=5, max_frames=12, ignore_stop=True),
        SpeechRequest("The same words, guided.", seed=6, guidance=1.5, max_frames=12, ignore_stop=True),
        SpeechRequest("Any token.", seed=7, top_k=1000, max_frames=12, ignore_stop=True),
    ],
    ids=["plain", "guided", "top_k"],
)
def test_a_seed_gives_the_same_codes_alone_and_among_many(engine: CsmEngine, request_alone: SpeechRequest) -> None:
    alone = engine.generate(request_alone).codes
    others = [
        engine.stream(SpeechRequest("Another text. " * (1 + number % 5), seed=number, max_frames=30))
        for number in range(OTHERS)
    ]
    among = engine.stream(request_alone)
    np.testing.assert_array_equal(among.collect().codes, alone)
    for stream in others:
        stream.close()
