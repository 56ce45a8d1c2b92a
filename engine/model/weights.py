"""Loads safetensors weights of either checkpoint layout into CsmModel."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .config import CsmConfig, TransformerConfig
from .csm import CsmModel

_INDEX_NAMES = ("model.safetensors.index.json", "transformers.safetensors.index.json")
_FILE_NAMES = ("model.safetensors",)

# The audio embeddings of the backbone and of the depth decoder. Where config.json ties them, transformers stores the
# one tensor under either name.
SHARED_EMBEDDINGS = (
    "backbone_model.embed_tokens.embed_audio_tokens.weight",
    "depth_decoder.model.embed_tokens.weight",
)


class Tensors:
    """The tensors of a checkpoint by name, read from disk on access.

    files: the safetensors file of each tensor. where: the path that messages about missing tensors name.
    """

    def __init__(self, files: dict[str, Path], where: Path) -> None:
        self._files = files
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Read one tensor to the CPU in its stored dtype. Raises CheckpointError if missing or of another shape."""
        if name not in self._files:
            raise CheckpointError(f"{self._where}: the tensor {name!r} is missing")
        path = self._files[name]
        try:
            with safe_open(path, framework="pt", device="cpu") as file:  # type: ignore[no-untyped-call]
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: damaged or incomplete: {error}") from error
        if shape is not None and tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: the tensor {name!r} has shape {tuple(tensor.shape)}, but config.json requires {shape}"
            )
        return tensor


def open_tensors(directory: Path, preferred: str | None = None) -> Tensors:
    """Open a checkpoint's safetensors: a single file, or shards with an index.

    preferred: the file name given by config.json's "transformers_weights". Raises CheckpointError.
    """
    names = [preferred] if preferred else [*_INDEX_NAMES, *_FILE_NAMES]
    for name in names:
        path = directory / name
        if not path.is_file():
            continue
        if name.endswith(".json"):
            return Tensors(_shards(path), path)
        return Tensors(dict.fromkeys(_keys(path), path), path)
    raise CheckpointError(f"{directory}: contains no weights: expected {' or '.join(names)}")


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:  # type: ignore[no-untyped-call]
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or incomplete: {error}") from error


def _shards(index: Path) -> dict[str, Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / Path(str(shard)).name for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index}: is not a safetensors index: {error!r}") from error
    for shard in sorted(set(files.values())):
        if not shard.is_file():
            raise CheckpointError(f"{shard}: is missing, though {index.name} names it")
        missing = {name for name, path in files.items() if path == shard} - set(_keys(shard))
        if missing:
            raise CheckpointError(
                f"{shard}: the tensor {min(missing)!r} is missing, though {index.name} places it there"
            )
    return files


class _CanonicalTensors:
    """CSM's tensors under transformers' names and RoPE layout, for both checkpoint layouts."""

    def __init__(self, tensors: Tensors, config: CsmConfig) -> None:
        self._tensors = tensors
        self._rename: Callable[[str], str] = lambda name: name
        self._config = config
        self.sesame = "codebook0_head.weight" in tensors
        if self.sesame:
            self._rename = _sesame_name

    def get(self, name: str, *shape: int) -> Tensor:
        tensor = self._tensors.get(self._rename(name), shape)
        if self.sesame and (match := re.search(r"(backbone|depth_decoder).*\.(q|k)_proj", name)):
            transformer = self._config.backbone if match[1] == "backbone" else self._config.depth
            return halves_from_pairs(tensor, transformer.head_dim)
        return tensor

    def __contains__(self, name: str) -> bool:
        return self._rename(name) in self._tensors


# transformers' name -> Sesame's (torchtune's), as substring replacements applied in order
_SESAME_NAMES = (
    ("depth_decoder.codebooks_head.weight", "audio_head"),
    ("depth_decoder.model.inputs_embeds_projector", "projection"),
    ("backbone_model.embed_tokens.embed_audio_tokens", "audio_embeddings"),
    ("embed_text_tokens", "text_embeddings"),
    ("lm_head", "codebook0_head"),
    ("depth_decoder.model.", "decoder."),
    ("backbone_model.", "backbone."),
    ("input_layernorm.weight", "sa_norm.scale"),
    ("post_attention_layernorm.weight", "mlp_norm.scale"),
    ("norm.weight", "norm.scale"),
    ("self_attn.o_proj", "attn.output_proj"),
    ("self_attn.", "attn."),
    ("mlp.gate_proj", "mlp.w1"),
    ("mlp.down_proj", "mlp.w2"),
    ("mlp.up_proj", "mlp.w3"),
)


def _sesame_name(name: str) -> str:
    for transformers_part, sesame_part in _SESAME_NAMES:
        name = name.replace(transformers_part, sesame_part)
    return name


def halves_from_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of q or k from interleaved RoPE (torchtune) to half-split RoPE (transformers)."""
    rows, columns = weight.shape
    return weight.view(rows // head_dim, head_dim // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def load_weights(model: CsmModel, tensors: Tensors, device: torch.device, dtype: torch.dtype) -> None:
    """Load weights into a model created on the meta device. Raises CheckpointError naming the file and the tensor."""
    config, source = model.config, _CanonicalTensors(tensors, model.config)
    backbone, depth, vocab = config.backbone, config.depth, model.sampled_vocab
    audio_rows = config.codebooks * config.audio_vocab

    def put(module: torch.nn.Module, name: str, tensor: Tensor) -> None:
        parameter = torch.nn.Parameter(tensor.to(device=device, dtype=dtype).contiguous(), requires_grad=False)
        setattr(module, name, parameter)

    put(model.text_embeddings, "weight", source.get("embed_text_tokens.weight", config.text_vocab, backbone.hidden))
    audio, tied = SHARED_EMBEDDINGS
    if config.tied_embeddings and audio not in source:
        audio = tied
    put(model.audio_embeddings, "weight", source.get(audio, audio_rows, backbone.hidden))
    if not config.tied_embeddings:
        put(model.depth_embeddings, "weight", source.get(tied, audio_rows, backbone.hidden))
    put(model.first_head, "weight", source.get("lm_head.weight", config.audio_vocab, backbone.hidden)[:vocab])
    name = "depth_decoder.model.inputs_embeds_projector.weight"
    put(model.depth_projection, "weight", source.get(name, depth.hidden, backbone.hidden))
    heads = source.get("depth_decoder.codebooks_head.weight", config.codebooks - 1, depth.hidden, config.audio_vocab)
    for head, weight in zip(model.heads, heads, strict=True):
        put(head, "weight", weight.t()[:vocab])
    for prefix, transformer in (("backbone_model.", model.backbone), ("depth_decoder.model.", model.depth)):
        put(transformer.norm, "weight", source.get(prefix + "norm.weight", transformer.config.hidden))
        for index, layer in enumerate(transformer.layers):
            for path, weight in _layer(source, f"{prefix}layers.{index}.", transformer.config):
                put(layer.get_submodule(path), "weight", weight)
    model.build_tables()


def _layer(source: _CanonicalTensors, prefix: str, config: TransformerConfig) -> Iterable[tuple[str, Tensor]]:
    """Yield one layer's weights by submodule path, with q, k, v and gate, up fused."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    projections = (("q", q), ("k", kv), ("v", kv))
    qkv = [source.get(f"{prefix}self_attn.{name}_proj.weight", rows, config.hidden) for name, rows in projections]
    yield "attention.qkv", torch.cat(qkv)
    yield "attention.out", source.get(prefix + "self_attn.o_proj.weight", config.hidden, q)
    gate = source.get(prefix + "mlp.gate_proj.weight", config.intermediate, config.hidden)
    up = source.get(prefix + "mlp.up_proj.weight", config.intermediate, config.hidden)
    yield "mlp.gate_up", torch.cat((gate, up))
    yield "mlp.down", source.get(prefix + "mlp.down_proj.weight", config.hidden, config.intermediate)
    yield "attention_norm", source.get(prefix + "input_layernorm.weight", config.hidden)
    yield "mlp_norm", source.get(prefix + "post_attention_layernorm.weight", config.hidden)
