from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine import random_checkpoint
from training.base_checkpoint import checkpoint_fingerprint, enable_gradient_checkpointing, load_base
from training.batches import collate
from training.example import Example
from training.lora import LoraSettings, add_lora
from training.losses import CsmLosses
from training.sequence import Sequence

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_recomputes_and_keeps_gradients_equal(
    base_directory: Path, examples: list[Example], lora: bool
) -> None:
    def run_backward(checkpointing: bool) -> tuple[list[int], dict[str, Tensor]]:
        base = load_base(str(base_directory))
        if lora:
            add_lora(base, LoraSettings(rank=4), seed=0)
        if checkpointing:
            enable_gradient_checkpointing(base.model)
        base.model.train()
        stacks = (base.model.backbone_model, base.model.depth_decoder.model)
        calls = [0, 0]

        def count(index: int) -> Any:
            def counted(*_: Any) -> None:
                calls[index] += 1

            return counted

        for index, stack in enumerate(stacks):
            stack.layers[0].mlp.register_forward_pre_hook(count(index))
        batch = collate([Sequence((each,)) for each in examples], base.layout, 1.0, np.random.default_rng(0))
        losses = CsmLosses(base.model)(batch)
        torch.autograd.backward(losses.first.mean() + losses.depth.mean())
        return calls, {name: each.grad for name, each in base.model.named_parameters() if each.grad is not None}

    once, plain = run_backward(checkpointing=False)
    twice, checkpointed = run_backward(checkpointing=True)
    assert (once, twice) == ([1, 1], [2, 2])
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_fingerprint_depends_on_weights_and_not_on_files(base_directory: Path, tmp_path: Path) -> None:
    same = random_checkpoint.build_model(random_checkpoint.TINY)
    other = random_checkpoint.build_model(random_checkpoint.TINY, seed=1)
    sharded = random_checkpoint.write_checkpoint(tmp_path / "sharded", same, shard_size="150KB")
    assert not (sharded / "model.safetensors").exists()
    assert checkpoint_fingerprint(sharded) == checkpoint_fingerprint(base_directory)
    assert checkpoint_fingerprint(
        random_checkpoint.write_checkpoint(tmp_path / "other", other)
    ) != checkpoint_fingerprint(base_directory)


@pytest.mark.parametrize("kept", ["depth_decoder.model.embed_tokens", "backbone_model.embed_tokens.embed_audio_tokens"])
def test_tied_embeddings_are_read_under_either_name(base_directory: Path, tmp_path: Path, kept: str) -> None:
    copy = Path(shutil.copytree(base_directory, tmp_path / "copy"))
    # copies: what is loaded is mapped from the file that is written over
    tensors = {name: tensor.clone() for name, tensor in load_file(copy / "model.safetensors").items()}
    names = ("depth_decoder.model.embed_tokens.weight", "backbone_model.embed_tokens.embed_audio_tokens.weight")
    weight = next(tensors.pop(name) for name in names if name in tensors)
    others = {name: tensor for name, tensor in tensors.items() if name not in names}
    save_file({**others, f"{kept}.weight": weight.clone()}, copy / "model.safetensors", metadata={"format": "pt"})
    model = load_base(str(copy)).model
    depth = model.depth_decoder.model.embed_tokens.weight
    assert torch.equal(depth, weight)
    assert model.backbone_model.embed_tokens.embed_audio_tokens.weight is depth
