"""Int8 depth weights: error bounds, independence of the batch, graph capture, checkpoint errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine import CheckpointError, EngineConfig, InvalidRequest, SpeechRequest, load_engine
from engine.engine_core import CsmEngine
from engine.frame_pipeline import CAPTURED_MODE
from engine.loading import load as load_model
from engine.model.int8_linear import Int8Linear, Int8Product, quantize
from engine.model_runner import ModelRunner

from .tape import TapeCapturer

Load = Callable[..., CsmEngine]


def weight_of(dtype: torch.dtype) -> Tensor:
    """Output channels of very different scale, one of zeros, one with a single large weight."""
    weight = torch.randn(67, 48, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 1, 67)[:, None]
    weight[3] = 0
    weight[5, 7] = 40
    return weight.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_weight_is_off_by_more_than_half_a_step(dtype: torch.dtype) -> None:
    weight = weight_of(dtype)
    product = Int8Product(weight)
    scale = product.scale.double()[:, None]
    error = (product.weight.double() * scale - weight.double()).abs()
    assert product.weight.dtype == torch.int8
    assert product.weight.abs().max() == 127
    assert bool((error <= scale / 2).all())
    assert bool((error[3] == 0).all())


@pytest.mark.parametrize("shape", [(48,), (5, 48), (3, 2, 48)])
def test_products_are_within_the_error_bound(shape: tuple[int, ...]) -> None:
    weight, x = weight_of(torch.float32), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    linear = Int8Linear(weight)
    expected, y = nn.functional.linear(x.double(), weight.double()), linear(x)
    bound = x.double().abs().sum(-1, keepdim=True) * linear.product.scale.double() / 2
    assert y.shape == (*shape[:-1], 67)
    assert bool(((y - expected).abs() <= bound + 1e-5 * expected.abs().max()).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_batch_size(dtype: torch.dtype) -> None:
    linear = Int8Linear(weight_of(dtype))
    x = torch.randn(9, 48, generator=torch.Generator().manual_seed(2)).to(dtype)
    together = linear(x)
    for rows in (1, 2, 3, 4, 7):
        assert torch.equal(linear(x[:rows]), together[:rows])


def test_every_linear_layer_is_replaced_and_a_non_finite_weight_is_named() -> None:
    stack = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ModuleList([nn.Linear(6, 2, bias=False)]), nn.Embedding(3, 4))
    quantize(stack, "stack")
    kinds = [type(module) for module in stack.modules()]
    assert (kinds.count(Int8Linear), kinds.count(nn.Linear), kinds.count(nn.Embedding)) == (2, 0, 1)
    layer = nn.Linear(4, 6, bias=False)
    nn.init.constant_(layer.weight, torch.inf)
    with pytest.raises(CheckpointError, match=r"stack\.0.*not finite"):
        quantize(nn.Sequential(layer), "stack")


def test_an_unknown_setting_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"'int4'.*auto or int8"):
        EngineConfig("tiny", depth_weights="int4")  # type: ignore[arg-type]


def test_a_checkpoint_with_non_finite_weights_is_named(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    path, name = directory / "model.safetensors", "depth_decoder.model.layers.0.mlp.down_proj.weight"
    tensors = load_file(path)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.down") as caught:
        load_engine(EngineConfig(str(directory), "cpu", "float32", depth_weights="int8"))
    assert str(directory) in str(caught.value)


def test_concurrent_requests_get_the_codes_of_single_ones(load: Load, checkpoint: Path) -> None:
    engine = load(checkpoint, depth_weights="int8", dtype="bfloat16")
    requests = [
        SpeechRequest("Greedy.", temperature=0, max_frames=8),
        SpeechRequest("Drawn from a seed.", seed=3, max_frames=12),
        SpeechRequest("Guided.", seed=4, guidance=1.5, max_frames=6),
    ]
    alone = [engine.generate(request).codes for request in requests]
    for stream, codes in zip([engine.stream(request) for request in requests], alone, strict=True):
        np.testing.assert_array_equal(stream.collect().codes, codes)
    assert engine.status().detail["depth_weights"] == "int8"


def test_the_backbone_is_unchanged_and_a_frame_can_be_captured(checkpoint: Path) -> None:
    def runner_of(**changes: str) -> ModelRunner:
        config = EngineConfig(str(checkpoint), "cpu", "float32", **changes)  # type: ignore[arg-type]
        return load_model(config, lambda share, what: None).runner

    exact, quantized = runner_of(), runner_of(depth_weights="int8")
    for one, other in zip(exact.model.backbone.parameters(), quantized.model.backbone.parameters(), strict=True):
        assert torch.equal(*(each.to_dense() if each.is_mkldnn else each for each in (one, other)))
    assert quantized.nbytes < exact.nbytes
    assert {type(head) for head in quantized.model.heads} == {Int8Linear}

    def generate(runner: ModelRunner, captured: bool) -> list[Tensor]:
        state = runner.model.allocate(2)
        state.active[:], state.starting[:], state.sampling.top_k[:] = True, True, 50
        state.sampling.temperature[:] = state.sampling.temperature_first[:] = 0.9

        def step() -> None:
            runner.model.frame_step(state, 2, 64, CAPTURED_MODE)

        with torch.inference_mode():
            frame = TapeCapturer().capture(step) if captured else step  # capturing runs two frames
            for _ in range(2 if captured else 4):
                frame()
        return [state.output, state.position]

    assert all(map(torch.equal, generate(quantized, True), generate(quantized, False)))
