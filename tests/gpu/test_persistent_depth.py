"""The persistent kernel on a GPU of compute capability 9.0 or newer, against the plain step and the fused kernels."""

from __future__ import annotations

import pytest
import torch

from engine.cuda_streams import StreamPriority
from engine.model import persistent_frames
from engine.model.config import CsmConfig, TransformerConfig
from engine.model.csm import CsmModel
from engine.model.graphs import CudaGraphCapturer

AVAILABLE = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not AVAILABLE, reason="no CUDA device of compute capability 9.0 or newer here"),
]

CONTEXT = 24


def test_it_agrees_with_the_plain_step_in_a_graph_too() -> None:
    """On the smallest sizes that its tiles divide; 32 blocks. Which of the two is faster there does not matter."""
    pytest.importorskip("triton")
    pytest.importorskip("cuda.bindings.nvrtc")
    from engine.model.fused.step import FusedStep

    backbone = TransformerConfig(512, 64, 1, 8, 2, 64, 1e-5, 1e4, None)
    depth = TransformerConfig(256, 1280, 2, 8, 2, 32, 1e-5, 1e4, None)
    config = CsmConfig(backbone, depth, 5, 1030, 20, 32, 0, True, None)
    model = CsmModel(config, 5, 1024)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 1.2 / parameter.shape[1] ** 0.5, generator=generator)
        else:
            parameter.data.normal_(1, 0.3, generator=generator)
    model = model.to("cuda", torch.bfloat16).eval()
    model.build_tables()
    state = model.allocate(4)
    fault = persistent_frames.persistent_fault(
        *(model, state, FusedStep(model, state), persistent_frames.build(model, state), (1, 2, 3, 4), CONTEXT),
        lambda: CudaGraphCapturer(model.device, StreamPriority.FRAMES),
    )
    assert fault in ("", "the fused kernels are faster")
