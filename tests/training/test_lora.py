"""LoRA changes exactly the selected weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.base_checkpoint import BaseCheckpoint, load_base
from training.example import Example
from training.lora import LoraSettings, add_lora, merged_tensors
from training.sequence import Sequence
from training.trainer import Hooks, train

from .short_runs import SHORT

pytestmark = pytest.mark.usefixtures("one_thread")

_LAYERS = r"(backbone_model|depth_decoder\.model)\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_PROJECTION = r"depth_decoder\.model\.inputs_embeds_projector"
HEADS = {"lm_head.weight", "depth_decoder.codebooks_head.weight"}


def train_lora(base: BaseCheckpoint, examples: list[Example], out: Path, settings: LoraSettings) -> None:
    add_lora(base, settings, seed=0)
    sequences = [Sequence((example,)) for example in examples]
    train(base.model, base.layout, lambda step, rng: sequences, SHORT, out)


def clone_state(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("heads", [False, True])
def test_only_selected_weights_change(
    base: BaseCheckpoint, examples: list[Example], tmp_path: Path, heads: bool
) -> None:
    """Every tensor by name, in the merged weights and in the model itself."""
    before = clone_state(base.model)
    train_lora(base, examples, tmp_path, LoraSettings(rank=4, heads=heads))
    merged = merged_tensors(base.model)
    assert merged.keys() == before.keys()
    assert all(merged[name].dtype == before[name].dtype for name in before)
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    expected = {name for name in before if re.fullmatch(f"({_LAYERS}|{_PROJECTION})\\.weight", name)}
    assert len(expected) == 7 * (3 + 2) + 1
    assert changed == (expected | HEADS if heads else expected)

    in_model = base.model.state_dict()
    for name, tensor in before.items():
        names = {
            name,
            name.replace(".weight", ".base_layer.weight"),
            name.replace(".weight", ".original_module.weight"),
        }
        (found,) = names & in_model.keys()
        assert torch.equal(in_model[found], tensor)


def test_a_new_adapter_is_a_no_op(base: BaseCheckpoint) -> None:
    before = clone_state(base.model)
    add_lora(base, LoraSettings(rank=4, heads=True), seed=0)
    merged = merged_tensors(base.model)
    assert all(torch.equal(merged[name], before[name]) for name in before)


def test_lora_weights_are_float32_with_a_bfloat16_base(base: BaseCheckpoint) -> None:
    base.model.to(torch.bfloat16)
    add_lora(base, LoraSettings(rank=4, heads=True), seed=0)
    trained = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    merged = merged_tensors(base.model)
    assert {tensor.dtype for tensor in merged.values() if tensor.is_floating_point()} == {torch.bfloat16}


def test_embeddings_stay_tied(base: BaseCheckpoint, examples: list[Example], tmp_path: Path) -> None:
    train_lora(base, examples, tmp_path, LoraSettings(rank=4))
    backbone, depth = (
        base.model.backbone_model.embed_tokens.embed_audio_tokens,
        base.model.depth_decoder.model.embed_tokens,
    )
    assert backbone.weight is depth.weight


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LoraSettings(**wrong)


def test_dropout_is_reproducible_after_resume(base_directory: Path, examples: list[Example], tmp_path: Path) -> None:
    """Dropout uses torch's global generator, which every step seeds."""

    def weights(out: Path, *stops: bool) -> dict[str, Tensor]:
        sequences = [Sequence((example,)) for example in examples]
        for stop in stops:
            base = load_base(str(base_directory))
            add_lora(base, LoraSettings(rank=4, dropout=0.3), seed=0)
            hooks = Hooks(should_stop=[lambda: False, lambda: True][stop])
            train(base.model, base.layout, lambda step, rng: sequences, replace(SHORT, steps=3), out, hooks)
        return merged_tensors(base.model)

    unbroken, resumed = weights(tmp_path / "a", False), weights(tmp_path / "b", True, False)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
