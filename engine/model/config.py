"""CSM model configuration: dimensions, token ids and RoPE scaling, read from a checkpoint's config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .transformers_defaults import BACKBONE, DEPTH, codec_with_defaults, with_defaults


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3 RoPE scaling: long wavelengths are stretched by `factor`, a band below them is blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True)
class TransformerConfig:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None


@dataclass(frozen=True)
class CsmConfig:
    """Configuration of one checkpoint.

    codec: has the attributes of transformers' MimiConfig; None if the checkpoint has no Mimi weights.
    """

    backbone: TransformerConfig
    depth: TransformerConfig
    codebooks: int
    audio_vocab: int
    text_vocab: int
    positions: int  # context length: text tokens plus audio frames
    stop_code: int  # a frame of only this code ends the speech
    tied_embeddings: bool  # the depth decoder shares the backbone's audio embeddings
    codec: Any | None


def read_config(path: Path) -> CsmConfig:
    """Read a config.json in transformers' or Sesame's layout. Raises CheckpointError naming the file and the key."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, not {type(raw).__name__}")
    try:
        if raw.get("model_type") == "csm":
            return _from_transformers(raw)
        if "backbone_flavor" in raw:
            return _from_sesame(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not a usable CSM configuration: {error!r}") from error
    raise CheckpointError(
        f'{path}: is not a CSM configuration: it has neither "model_type": "csm" (transformers\' layout) '
        f'nor "backbone_flavor" (Sesame\'s), but "model_type": {json.dumps(raw.get("model_type"))}'
    )


def _from_transformers(raw: dict[str, Any]) -> CsmConfig:
    config = with_defaults(raw, BACKBONE)
    return CsmConfig(
        backbone=_transformer(config),
        depth=_transformer(with_defaults(raw.get("depth_decoder_config"), DEPTH)),
        codebooks=config.num_codebooks,
        audio_vocab=config.vocab_size,
        text_vocab=config.text_vocab_size,
        positions=config.max_position_embeddings,
        stop_code=config.codebook_eos_token_id,
        tied_embeddings=config.tie_codebooks_embeddings,
        codec=codec_with_defaults(raw.get("codec_config")),
    )


def _transformer(config: Any) -> TransformerConfig:
    if config.hidden_act != "silu" or config.attention_bias or config.mlp_bias:
        raise ValueError("only hidden_act 'silu' without biases is supported")
    # transformers 5 stores theta and scaling in rope_parameters, transformers 4 in separate keys
    rope = dict(config.rope_parameters or config.rope_scaling or {})
    theta = rope.get("rope_theta") or config.rope_theta
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "llama3"):
        raise ValueError(f"rope_type {kind!r} is not supported: use 'default' or 'llama3'")
    scaling = None
    if kind == "llama3":
        scaling = RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_positions=int(rope["original_max_position_embeddings"]),
        )
    return TransformerConfig(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        norm_eps=config.rms_norm_eps,
        rope_theta=float(theta),
        rope_scaling=scaling,
    )


# Sesame's layout names two model sizes without dimensions. The dimensions are those of SesameAILabs/csm, models.py:
# torchtune's llama3_2 with these arguments and Llama 3 RoPE scaling with factor 32.
_FLAVORS: dict[str, dict[str, int]] = {
    "llama-1B": {"layers": 16, "heads": 32, "kv_heads": 8, "hidden": 2048, "intermediate": 8192},
    "llama-100M": {"layers": 4, "heads": 8, "kv_heads": 2, "hidden": 1024, "intermediate": 8192},
}
_SESAME_POSITIONS = 2048
_SESAME_ROPE = RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=8192)


def _from_sesame(raw: dict[str, Any]) -> CsmConfig:
    return CsmConfig(
        backbone=_flavor(raw, "backbone"),
        depth=_flavor(raw, "decoder"),
        codebooks=int(raw["audio_num_codebooks"]),
        audio_vocab=int(raw["audio_vocab_size"]),
        text_vocab=int(raw["text_vocab_size"]),
        positions=int(raw.get("max_seq_len", _SESAME_POSITIONS)),
        stop_code=0,
        tied_embeddings=True,
        codec=None,
    )


def _flavor(raw: dict[str, Any], which: str) -> TransformerConfig:
    """The dimensions of a flavor. Keys such as "backbone_hidden" override single values, for models of other sizes."""
    name = raw[f"{which}_flavor"]
    if name not in _FLAVORS:
        raise ValueError(f"{which}_flavor {name!r} is unknown: use one of {', '.join(_FLAVORS)}")
    shape = {key: int(raw.get(f"{which}_{key}", value)) for key, value in _FLAVORS[name].items()}
    return TransformerConfig(
        **shape,
        head_dim=shape["hidden"] // shape["heads"],
        norm_eps=1e-5,
        rope_theta=500_000.0,
        rope_scaling=_SESAME_ROPE,
    )
