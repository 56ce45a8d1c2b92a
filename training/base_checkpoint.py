"""Loads the base checkpoint for training and fingerprints its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as untyped

from engine.model.checkpoint import check_directory, find_checkpoint, preferred_weights_file
from engine.model.tokenizer import TextTokenizer
from engine.model.weights import SHARED_EMBEDDINGS, open_tensors

from .errors import BaseCheckpointError
from .sequence import Layout

transformers: Any = untyped

# Small tensors that any training run changes; compared in bfloat16, so the storage dtype does not matter.
_FINGERPRINT_TENSORS = (
    "backbone_model.layers.0.self_attn.k_proj.weight",
    "depth_decoder.model.layers.0.self_attn.k_proj.weight",
)

ADAPTER_METADATA = "csm_adapter.json"  # beside an adapter: what it was trained on


@dataclass(frozen=True)
class BaseCheckpoint:
    """A loaded base checkpoint.

    name: as requested. model: transformers' CsmForConditionalGeneration in evaluation mode.
    fingerprint: identifies the weights, see checkpoint_fingerprint.
    """

    name: str
    directory: Path
    model: Any
    layout: Layout
    fingerprint: str


def load_base(name: str, token: str | None = None, dtype: torch.dtype = torch.float32) -> BaseCheckpoint:
    """Load a checkpoint from a directory or a hub id. dtype: of the weights in memory.

    Raises engine's CheckpointNotFound and CheckpointError, and BaseCheckpointError for Sesame's own layout.
    """
    directory = find_checkpoint(name, token)
    check_directory(directory)
    model_type = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type != "csm":
        raise BaseCheckpointError(
            f'{directory / "config.json"}: model_type is {model_type!r}, but only transformers\' layout ("csm") can be '
            "trained; sesame/csm-1b on the hub contains it beside Sesame's own layout"
        )
    tokenizer = TextTokenizer(directory / "tokenizer.json")
    model = transformers.CsmForConditionalGeneration.from_pretrained(directory, dtype=dtype).eval()
    tie_embeddings(model, directory)
    return BaseCheckpoint(name, directory, model, Layout(tokenizer, model.config), checkpoint_fingerprint(directory))


def tie_embeddings(model: Any, directory: Path) -> None:
    """Share the checkpoint's audio embeddings between backbone and depth decoder, if its config ties them.

    transformers 4 reads them under one of their two names, transformers 5 each under its own; what it does not find
    it leaves empty or fills with random numbers.
    """
    if not model.config.tie_codebooks_embeddings:
        return
    backbone, depth = model.backbone_model.embed_tokens.embed_audio_tokens, model.depth_decoder.model.embed_tokens
    tensors = open_tensors(directory, preferred_weights_file(directory))
    name = next((each for each in SHARED_EMBEDDINGS if each in tensors), SHARED_EMBEDDINGS[1])
    weight = tensors.get(name, tuple(depth.weight.shape))
    depth.weight = torch.nn.Parameter(weight.to(model.dtype))
    backbone.weight = depth.weight


def checkpoint_fingerprint(directory: Path) -> str:
    """Hash of a checkpoint's weights: equal for any copy, bfloat16 ones included, and different after any training."""
    tensors = open_tensors(directory, preferred_weights_file(directory))
    digest = hashlib.sha256()
    for name in _FINGERPRINT_TENSORS:
        digest.update(tensors.get(name).to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def enable_gradient_checkpointing(model: Any) -> None:
    """Keep one activation per layer and recompute the others in the backward pass."""
    options = {"use_reentrant": False}  # reentrant needs inputs with gradients: with LoRA the embeddings have none
    if hasattr(model, "activation_checkpointing_enable"):  # the name in transformers 5
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
