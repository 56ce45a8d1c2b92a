"""Small random CSM checkpoints, built by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, processors

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 4,  # small, so that every branch of the scaling is met
}

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>")


def write_tokenizer(directory: Path) -> tokenizers.Tokenizer:
    """Byte-level, so that any text has tokens; Llama 3's special tokens, and its begin token put first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: number for number, symbol in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    begin = tokenizer.token_to_id(SPECIAL[0])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], begin)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


def build_model(seed: int = 0, **changes: Any) -> Any:
    """A tiny CsmForConditionalGeneration, float32. `changes` go to CsmConfig; depth_* to the depth decoder's."""
    import transformers

    depth = {key[6:]: changes.pop(key) for key in list(changes) if key.startswith("depth_")}
    codec = {key[6:]: changes.pop(key) for key in list(changes) if key.startswith("codec_")}
    shape = {
        "num_codebooks": 4, "vocab_size": 67, "text_vocab_size": 300, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "bos_token_id": 256, "audio_token_id": 258, "audio_eos_token_id": 259, "pad_token_id": 258,
        "codebook_pad_token_id": 66, "codebook_eos_token_id": 0, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE,
    } | changes  # fmt: skip
    depth = {
        "num_codebooks": shape["num_codebooks"], "backbone_hidden_size": shape["hidden_size"],
        "vocab_size": shape["vocab_size"], "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE,
        "max_position_embeddings": shape["num_codebooks"] + 1,
    } | depth  # fmt: skip
    codec = {
        "model_type": "mimi", "hidden_size": 32, "num_filters": 4, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 64, "codebook_size": 64, "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16, "num_quantizers": shape["num_codebooks"], "sliding_window": 20,
        "upsample_groups": 32, "layer_scale_initial_scale": 0.3,
    } | codec  # fmt: skip
    config = transformers.CsmConfig(**shape, depth_decoder_config=depth, codec_config=codec)
    torch.manual_seed(seed)
    model = transformers.CsmForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "codec_model" not in name:  # wide enough that tokens differ in their logits
                parameter.normal_(0, 0.15, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("codebook.embed_sum"):
                buffer.normal_(0, 1, generator=generator)
    model.generation_config.max_new_tokens = 10
    model.generation_config.do_sample = False
    model.depth_decoder.generation_config.do_sample = False
    return model


def write_checkpoint(directory: Path, model: Any, shard_size: str = "5GB") -> Path:
    """The transformers layout, as `save_pretrained` writes it, with a tokenizer."""
    model.save_pretrained(directory, max_shard_size=shard_size)
    write_tokenizer(directory)
    return directory


def write_sesame_checkpoint(directory: Path, source: Path) -> Path:
    """The same weights in Sesame's original layout: torchtune names, interleaved RoPE, Mimi in a file of its own."""
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
            tensor = tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
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
    """torchtune's names, written down apart from the loader's own table."""
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
