"""Random CSM checkpoints of any size, built with transformers: for tests and benchmarks.

    python -m engine.random_checkpoint DIRECTORY [--size full]

writes one that MODEL_PATH can name. It generates noise; everything else is as in CSM.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import tokenizers  # type: ignore[import-untyped]
import torch
from tokenizers import decoders, models, pre_tokenizers, processors

SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>")

# As in sesame/csm-1b. original_max_position_embeddings is small, so that short lengths reach every scaling branch.
_ROPE = {"rope_type": "llama3", "factor": 32.0}
BACKBONE_ROPE = _ROPE | {
    "low_freq_factor": 0.125, "high_freq_factor": 0.5, "original_max_position_embeddings": 1024,
}  # fmt: skip
DEPTH_ROPE = _ROPE | {
    "low_freq_factor": 0.001953125, "high_freq_factor": 0.0078125, "original_max_position_embeddings": 16,
}  # fmt: skip

TINY: dict[str, Any] = {
    "num_codebooks": 4, "vocab_size": 67, "text_vocab_size": 300, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "codebook_pad_token_id": 66,
    "depth_hidden_size": 48, "depth_intermediate_size": 80, "depth_num_hidden_layers": 2,
    "depth_num_attention_heads": 4, "depth_num_key_value_heads": 2,
    "codec_hidden_size": 32, "codec_num_filters": 4, "codec_num_hidden_layers": 2, "codec_num_attention_heads": 4,
    "codec_num_key_value_heads": 4, "codec_head_dim": 8, "codec_intermediate_size": 64, "codec_codebook_size": 64,
    "codec_codebook_dim": 16, "codec_vector_quantization_hidden_dimension": 16, "codec_upsample_groups": 32,
    "codec_layer_scale_initial_scale": 0.3,
}  # fmt: skip
FULL: dict[str, Any] = {}  # transformers' defaults are CSM-1B's dimensions


def build_model(shape: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A random CsmForConditionalGeneration.

    shape: arguments of transformers.CsmConfig; keys with depth_ or codec_ go to its nested configurations.
    """
    import transformers as untyped

    transformers: Any = untyped
    ours = {key: value for key, value in shape.items() if not key.startswith(("depth_", "codec_"))}
    depth = {key[6:]: value for key, value in shape.items() if key.startswith("depth_")}
    codec = {key[6:]: value for key, value in shape.items() if key.startswith("codec_")}
    config = transformers.CsmConfig(
        **{"rope_scaling": BACKBONE_ROPE, "bos_token_id": 256, "audio_token_id": 258, "audio_eos_token_id": 259,
           "pad_token_id": 258, "codebook_eos_token_id": 0} | ours
    )  # fmt: skip
    shared = {key: getattr(config, key) for key in ("num_codebooks", "vocab_size")}
    config.depth_decoder_config = transformers.CsmDepthDecoderConfig(
        **{"rope_scaling": DEPTH_ROPE, "backbone_hidden_size": config.hidden_size,
           "max_position_embeddings": config.num_codebooks + 1} | shared | depth
    )  # fmt: skip
    config.codec_config = transformers.MimiConfig(**{"num_quantizers": config.num_codebooks} | codec)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = transformers.CsmForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    if config.tie_codebooks_embeddings:  # transformers 5 leaves the two apart
        model.backbone_model.embed_tokens.embed_audio_tokens.weight = model.depth_decoder.model.embed_tokens.weight
    generator = torch.Generator().manual_seed(seed)
    spread = 1.2 / config.hidden_size**0.5  # wide enough for distinct logits at any size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("codec_model."):
                parameter.normal_(0, spread, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("codebook.embed_sum"):  # zeros by default: every code would decode to the same audio
                buffer.normal_(0, 1, generator=generator)
    return model


def write_tokenizer(directory: Path) -> Any:
    """Write tokenizer.json with one token per byte, so that any text can be encoded, and CSM's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: number for number, symbol in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    begin = tokenizer.token_to_id(SPECIAL_TOKENS[0])
    # as in Llama 3: the begin token is put before the text
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL_TOKENS[0]} $A", special_tokens=[(SPECIAL_TOKENS[0], begin)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


def write_checkpoint(directory: Path, model: Any, shard_size: str = "5GB") -> Path:
    """Write a checkpoint in the transformers layout, with a tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, max_shard_size=shard_size)
    write_tokenizer(directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random CSM checkpoint, which generates noise.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny", help="full: as CSM-1B, 3.5 GB")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    full = arguments.size == "full"
    model = build_model(FULL if full else TINY, arguments.seed, torch.bfloat16 if full else torch.float32)
    write_checkpoint(arguments.directory, model)


if __name__ == "__main__":
    main()
