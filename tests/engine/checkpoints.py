"""Random checkpoints for the engine's tests, in the layouts that transformers does not write too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine import random_checkpoint
from engine.random_checkpoint import SPECIAL_TOKENS, write_checkpoint, write_tokenizer

__all__ = [
    "SPECIAL_TOKENS",
    "build_model",
    "write_checkpoint",
    "write_moshi_mimi",
    "write_sesame_checkpoint",
    "write_tokenizer",
]

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 4,  # small, so that every branch of the scaling is reached
}


def build_model(seed: int = 0, **changes: Any) -> Any:
    """A tiny CsmForConditionalGeneration, float32, with changes to its shape."""
    rope = {"rope_scaling": LLAMA3_ROPE, "depth_rope_scaling": LLAMA3_ROPE}
    return random_checkpoint.build_model(random_checkpoint.TINY | rope | changes, seed)


def write_sesame_checkpoint(directory: Path, source: Path) -> Path:
    """The same weights in Sesame's original layout: torchtune names, interleaved RoPE, Mimi in a separate file."""
    config = json.loads((source / "config.json").read_text())
    weights = load_file(source / "model.safetensors")
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("codec_model."):
            continue
        if ".q_proj." in name or ".k_proj." in name:
            backbone = name.startswith("backbone")
            shape = config if backbone else config["depth_decoder_config"]
            heads = shape["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            rows, columns = tensor.shape
            pairs = tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
            renamed[_sesame_name(name)] = pairs.contiguous()
        else:
            renamed[_sesame_name(name)] = tensor.contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(renamed, directory / "model.safetensors")
    (directory / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    depth = config["depth_decoder_config"]
    (directory / "config.json").write_text(
        json.dumps(
            {
                "backbone_flavor": "llama-1B",
                "decoder_flavor": "llama-100M",
                "audio_num_codebooks": config["num_codebooks"],
                "audio_vocab_size": config["vocab_size"],
                "text_vocab_size": config["text_vocab_size"],
                "max_seq_len": config["max_position_embeddings"],
            }
            | _sesame_shape("backbone", config)
            | _sesame_shape("decoder", depth)
        )
    )
    return directory


def _sesame_shape(prefix: str, config: dict[str, Any]) -> dict[str, int]:
    names = {
        "layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
        "hidden": "hidden_size", "intermediate": "intermediate_size",
    }  # fmt: skip
    return {f"{prefix}_{ours}": config[theirs] for ours, theirs in names.items()}


def _sesame_name(name: str) -> str:
    """torchtune's names, written independently of the loader's table."""
    fixed = {
        "embed_text_tokens.weight": "text_embeddings.weight",
        "backbone_model.embed_tokens.embed_audio_tokens.weight": "audio_embeddings.weight",
        "depth_decoder.model.embed_tokens.weight": "audio_embeddings.weight",
        "lm_head.weight": "codebook0_head.weight",
        "depth_decoder.codebooks_head.weight": "audio_head",
        "depth_decoder.model.inputs_embeds_projector.weight": "projection.weight",
        "backbone_model.norm.weight": "backbone.norm.scale",
        "depth_decoder.model.norm.weight": "decoder.norm.scale",
    }
    if name in fixed:
        return fixed[name]
    stack, _, rest = name.partition(".layers.")
    number, _, tail = rest.partition(".")
    tails = {
        "self_attn.q_proj.weight": "attn.q_proj.weight",
        "self_attn.k_proj.weight": "attn.k_proj.weight",
        "self_attn.v_proj.weight": "attn.v_proj.weight",
        "self_attn.o_proj.weight": "attn.output_proj.weight",
        "mlp.gate_proj.weight": "mlp.w1.weight",
        "mlp.down_proj.weight": "mlp.w2.weight",
        "mlp.up_proj.weight": "mlp.w3.weight",
        "input_layernorm.weight": "sa_norm.scale",
        "post_attention_layernorm.weight": "mlp_norm.scale",
    }
    return f"{'backbone' if stack == 'backbone_model' else 'decoder'}.layers.{number}.{tails[tail]}"


def write_moshi_mimi(path: Path) -> Path:
    """Mimi in moshi's format and full size, with random weights."""
    from moshi.models.loaders import get_mimi

    torch.manual_seed(0)
    save_file(get_mimi(None, num_codebooks=32).state_dict(), path)
    return path
