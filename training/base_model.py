"""The checkpoint that is taught: found, loaded, and known again."""

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
from engine.model.weights import open_tensors

from .errors import BaseError
from .sequence import Layout

transformers: Any = untyped

# Small, different in every training run, and the same in any precision of at least bfloat16's.
_TELLING = ("backbone_model.layers.0.self_attn.k_proj.weight", "depth_decoder.model.layers.0.self_attn.k_proj.weight")


@dataclass(frozen=True)
class BaseModel:
    """name: as it was asked for. model: transformers' CsmForConditionalGeneration, in evaluation mode."""

    name: str
    directory: Path
    model: Any
    layout: Layout
    identity: str


def load_base(name: str, token: str | None = None, dtype: torch.dtype = torch.float32) -> BaseModel:
    """A directory or a hub id. dtype: of the weights in memory.

    Raises engine's CheckpointNotFound and CheckpointError, and BaseError for Sesame's own layout.
    """
    directory = find_checkpoint(name, token)
    check_directory(directory)
    kind = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "csm":
        raise BaseError(
            f'{directory / "config.json"}: model_type is {kind!r}, but only transformers\' layout ("csm") can be '
            "taught; sesame/csm-1b on the hub holds it beside Sesame's own"
        )
    tokenizer = TextTokenizer(directory / "tokenizer.json")
    model = transformers.CsmForConditionalGeneration.from_pretrained(directory, dtype=dtype).eval()
    if any(parameter.is_meta for parameter in model.parameters()):
        raise BaseError(
            f"{directory}: transformers {transformers.__version__} finds only one of the two names of the embeddings "
            "that backbone and depth decoder share, and not the one that it reads; save the checkpoint with "
            "transformers' own save_pretrained"
        )
    return BaseModel(name, directory, model, Layout(tokenizer, model.config), identity_of(directory))


def identity_of(directory: Path) -> str:
    """A short name for a checkpoint's weights: the same for a copy, also in bfloat16; another for any other."""
    tensors = open_tensors(directory, preferred_weights_file(directory))
    digest = hashlib.sha256()
    for name in _TELLING:
        digest.update(tensors.get(name).to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def enable_checkpointing(model: Any) -> None:
    """Keep one activation for each layer, and compute the others again on the way back."""
    how = {"use_reentrant": False}  # the other way sees no gradient where the embeddings have none, as with LoRA
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5's word for it
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
