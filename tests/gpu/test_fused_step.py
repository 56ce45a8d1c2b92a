"""The fused frame step against the plain one, on a CUDA device or in Triton's interpreter on a CPU.

tests/engine/test_fused_step.py runs this file in the interpreter.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.model import fused_frames
from engine.model.config import CsmConfig, TransformerConfig
from engine.model.csm import CsmModel, StepState
from engine.model.int8_linear import quantize
from engine.model.sampling import SamplingInputs, SamplingMode, SamplingState, sample

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if CUDA else "cpu")

triton = pytest.importorskip("triton")
from engine.model.fused import frame_kernels  # noqa: E402
from engine.model.fused.step import FusedStep  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no CUDA device here"),
]

CONTEXT = 24
# Of both transformers: `down` is split in two, a vocabulary is no multiple of a tile.
PART = TransformerConfig(64, 128, 1, 2, 1, 32, 1e-5, 1e4, None)
CONFIG = CsmConfig(PART, replace(PART, layers=2), 3, 69, 70, 40, 0, True, None)


@pytest.fixture(autouse=True)
def exact() -> Any:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(precision)


def model_of(dtype: torch.dtype = torch.float32, int8: bool = False, config: CsmConfig = CONFIG) -> CsmModel:
    model = CsmModel(config, 5, 67)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 1.2 / 8, generator=generator)
        else:
            parameter.data.normal_(1, 0.3, generator=generator)
    model = model.to(DEVICE, dtype).eval()
    if int8:
        quantize(model.depth, "depth")
        quantize(model.heads, "heads")
    model.build_tables()
    return model


def check_of(model: CsmModel, rows: int) -> fused_frames.FusedCheck:
    state = model.allocate(rows)
    fused_frames._fill(state)
    return fused_frames.FusedCheck(model, state, FusedStep(model, state), CONTEXT)


# On a CPU the interpreter's products round by the size of a tile, which changes at 16 rows.
COUNTS = (2, 7, 20, 65) if CUDA else (2, 7)


@pytest.mark.parametrize(
    ("dtype", "int8", "counts"), [(torch.float32, False, COUNTS), (torch.bfloat16, True, COUNTS if CUDA else (17,))]
)
def test_the_step_passes_its_comparison(dtype: torch.dtype, int8: bool, counts: tuple[int, ...]) -> None:
    """The same keys, logits, codes and state as the plain step, and each row the same bits among more rows."""
    with torch.inference_mode():
        check = check_of(model_of(dtype, int8), counts[-1])
        assert [check.fault(rows) for rows in counts] == [""] * len(counts)


def test_frames_have_the_plain_step_s_codes() -> None:
    model = model_of()
    states: list[StepState] = []
    with torch.inference_mode():
        for fused in (False, True):
            state = model.allocate(4)
            fused_frames._fill(state)
            step = FusedStep(model, state)
            for _ in range(2):
                if fused:
                    step.frame(3, CONTEXT)
                else:
                    model.frame_step(state, 3, CONTEXT, SamplingMode(top_k=67, sampled=True, guided=True))
            states.append(state)
    plain, fused_state = states
    assert torch.equal(plain.output, fused_state.output)
    assert torch.equal(plain.table.words, fused_state.table.words)
    assert plain.position.tolist() == [5, 4, 7, 6]  # the second is not active, the fourth not in the bucket


def test_the_stop_frame_is_told() -> None:
    """All codes but the last are the stop code's."""
    state = model_of().allocate(3)
    codes = torch.tensor([[0, 0, 9], [0, 9, 0], [0, 0, 0]], device=DEVICE)
    state.active[:2] = True
    state.starting[:] = True
    frame_kernels.finish_kernel[(3,)](
        *(codes, state.output, state.active.view(torch.uint8), state.starting.view(torch.uint8)),
        *(state.position, state.sampling.frame),
        STOP=0, CODEBOOKS=3, BLOCK_C=4, RECORD=state.table.words.shape[1], PDL=False,
    )  # fmt: skip
    assert state.output.tolist() == [[0, 0, 9, 0], [0, 9, 0, 1], [0, 0, 0, 0]]
    assert state.starting.tolist() == [False, False, True]
    assert state.position.tolist() == state.sampling.frame.tolist() == [1, 1, 0]


ROWS, VOCAB, BOOKS = 30, 2051, 4


def sampled(logits: Tensor, state: SamplingState, codebook: int) -> Tensor:
    """Codes of the sampling kernel, (rows,)."""
    dtype, size = logits.dtype, 16
    codes = torch.zeros(ROWS, BOOKS, dtype=torch.int64, device=DEVICE)
    inputs = torch.zeros(BOOKS - 1, VOCAB, size, device=DEVICE, dtype=dtype)
    stream = [torch.zeros(ROWS, size, device=DEVICE, dtype=dtype) for _ in range(3)]
    frame_kernels.sample_kernel[(ROWS,)](
        *(logits, state.seed, state.frame, state.top_k, state.unconditional, state.sampler, state.temperature),
        *(state.guidance, codes, inputs, stream[0][0], *stream[:2], stream[2].float(), codebook, 0),
        VOCAB=VOCAB, BLOCK_V=4096, AUDIO_VOCAB=VOCAB, CODEBOOKS=BOOKS, SIZE=size, BLOCK_H=size,
        RECORD=state.seed.stride(0), FINE=dtype == torch.float32, PDL=False, num_warps=8, enable_fp_fusion=False,
    )  # fmt: skip
    return codes[:, codebook]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sampling_kernel_draws_the_sampler_s_codes(dtype: torch.dtype) -> None:
    """From rounded logits with many ties, zeros of both signs among them; every combination of parameters."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(ROWS, VOCAB, generator=generator)
    logits[::3] = (logits[::3] * 4).round() / 4
    logits[8] = 0.0  # the best two of equals, the first of them negative
    logits[8, ::2] = -0.0
    logits = logits.to(DEVICE, dtype)
    state = SamplingState.allocate(ROWS, DEVICE)
    number = torch.arange(ROWS, device=DEVICE)
    state.seed.copy_((number - 20) * 0x1234567890ABCDE)
    state.frame.copy_(number * 3)
    state.temperature.copy_((number % 4) * 0.6)
    state.top_k.copy_(torch.tensor([1, 2, 50, 64, 700, VOCAB, 9999], device=DEVICE)[number % 7])
    state.guidance.copy_((number % 5 == 1) * 1.7)
    state.unconditional.copy_((number + 1) % ROWS)
    state.sampler.copy_(torch.where(number % 5 == 2, number - 1, number))
    mode = SamplingMode(top_k=VOCAB, sampled=True, guided=True)
    inputs = SamplingInputs.of(state, mode, BOOKS, VOCAB)
    expected = sample(logits, state, mode, inputs, 3)
    assert sampled(logits, state, 3).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > ROWS // 2


class Broken:
    """A kernel with some of its constants changed."""

    def __init__(self, kernel: Any, **changes: Any) -> None:
        self._kernel, self._changes = kernel, changes

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **constants: self._kernel[grid](*arguments, **constants | self._changes)


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that does not look at its queries: a mistake that leaves most of the result as it is."""
    monkeypatch.setattr(
        frame_kernels, "depth_attention_kernel", Broken(frame_kernels.depth_attention_kernel, SCALE=0.0)
    )
    with torch.inference_mode():
        assert "logits of codebook 1" in check_of(model_of(), 2).fault(2)


@pytest.mark.skipif(not CUDA, reason="the interpreter has no graphs")
def test_it_is_chosen_on_a_gpu_and_a_graph_replays_it() -> None:
    from engine.cuda_streams import StreamPriority
    from engine.model.fused.step import block_of
    from engine.model.graphs import CudaGraphCapturer

    for pdl in {False, torch.cuda.get_device_capability() >= (9, 0)}:
        model = model_of(torch.bfloat16)
        state = model.allocate(8)
        step = FusedStep(model, state, pdl)
        capturer = CudaGraphCapturer(DEVICE, StreamPriority.FRAMES)
        chosen = fused_frames.choose(model, state, step, (2, 8), CONTEXT, block_of, capturer)
        assert chosen == [2, 8]
        assert not state.active.any()
        assert not state.backbone.keys[..., : CONFIG.positions, :].any()
