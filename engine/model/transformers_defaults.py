"""Values that transformers omits from the config.json of a checkpoint, because they are its own defaults.

Importing transformers to restore them takes several seconds of a start. The defaults are those of `CsmConfig`,
`CsmDepthDecoderConfig` and `MimiConfig`; a test compares them.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

_TRANSFORMER: dict[str, Any] = {
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "head_dim": None, "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0, "rope_scaling": None, "rope_parameters": None,
}  # fmt: skip
BACKBONE: dict[str, Any] = _TRANSFORMER | {
    "num_codebooks": 32, "vocab_size": 2051, "text_vocab_size": 128_256, "hidden_size": 2048,
    "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 2048, "codebook_eos_token_id": 0, "tie_codebooks_embeddings": True,
}  # fmt: skip
DEPTH: dict[str, Any] = _TRANSFORMER | {
    "hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2,
}  # fmt: skip
CODEC: dict[str, Any] = {
    "sampling_rate": 24_000, "audio_channels": 1, "hidden_size": 512, "num_filters": 64, "num_residual_layers": 1,
    "upsampling_ratios": [8, 6, 5, 4], "kernel_size": 7, "last_kernel_size": 3, "residual_kernel_size": 3,
    "dilation_growth_rate": 2, "use_causal_conv": True, "pad_mode": "constant", "compress": 2, "trim_right_ratio": 1.0,
    "codebook_size": 2048, "num_quantizers": 32, "use_conv_shortcut": False,
    "vector_quantization_hidden_dimension": 256, "num_semantic_quantizers": 1, "upsample_groups": 512,
    "num_hidden_layers": 8, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8,
    "head_dim": None, "hidden_act": "gelu", "norm_eps": 1e-5, "rope_theta": 10_000.0, "rope_parameters": None,
    "sliding_window": 250, "layer_scale_initial_scale": 0.01, "attention_bias": False,
}  # fmt: skip


def with_defaults(raw: dict[str, Any] | None, defaults: dict[str, Any]) -> SimpleNamespace:
    """A part of a config.json as an object with every key of the defaults. Raises TypeError if it is not an object."""
    return SimpleNamespace(**defaults | dict(raw or {}))


def codec_with_defaults(raw: dict[str, Any] | None) -> SimpleNamespace:
    """Mimi's part. Its frame rate follows from the others where it is not stored."""
    config = with_defaults(raw, CODEC)
    config.upsampling_ratios = config.upsampling_ratios or CODEC["upsampling_ratios"]
    stored = (raw or {}).get("frame_rate") or (raw or {}).get("_frame_rate")
    config.frame_rate = stored or config.sampling_rate / (2 * math.prod(config.upsampling_ratios))
    return config
