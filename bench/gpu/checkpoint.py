"""A random checkpoint drawn on the device: CSM-1B's size in seconds, where transformers draws it on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.random_checkpoint import BACKBONE_ROPE, DEPTH_ROPE, write_tokenizer

_BLOCK = 1 << 20  # numbers drawn on a CPU for a large tensor, which repeats them


def draw_checkpoint(directory: Path, shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> int:
    """Write a checkpoint in the transformers layout and return its bytes. The codec is float32.

    shape: as in engine.random_checkpoint.build_model.
    """
    config = _config(shape)
    with torch.device("meta"):
        state = _transformers().CsmForConditionalGeneration(config).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, template in state.items():
        if config.tie_codebooks_embeddings and name == "depth_decoder.model.embed_tokens.weight":
            continue  # the same tensor as the backbone's audio embeddings
        kept = torch.float32 if name.startswith("codec_model.") else dtype
        tensor = torch.zeros(
            template.shape, device=device, dtype=kept if template.is_floating_point() else template.dtype
        )
        if template.is_floating_point():
            _fill(name, tensor, config.hidden_size, generator)
        tensors[name] = tensor.cpu()
    directory.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(directory)
    write_tokenizer(directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


def _fill(name: str, tensor: Tensor, hidden: int, generator: torch.Generator) -> None:
    """Random matrices, neutral norms and scales. The codec's codebooks are wide: every code sounds different."""
    if name.endswith(("initialized", "cluster_usage")):
        tensor.fill_(1)
    elif name.endswith("embed_sum"):
        tensor.normal_(generator=generator)
    elif "norm" in name and tensor.ndim == 1:
        tensor.fill_(0 if name.endswith("bias") else 1)
    elif "layer_scale" in name:
        tensor.fill_(0.01)
    elif tensor.ndim > 1:
        codec = name.startswith("codec_model.")
        _draw(tensor, 0.5 / tensor[0].numel() ** 0.5 if codec else 1.2 / hidden**0.5, generator)


def _draw(tensor: Tensor, spread: float, generator: torch.Generator) -> None:
    if tensor.is_cuda or tensor.numel() <= _BLOCK:
        tensor.normal_(0, spread, generator=generator)
        return
    block = (torch.randn(_BLOCK, generator=generator) * spread).to(tensor.dtype)
    flat = tensor.view(-1)
    for start in range(0, len(flat), _BLOCK):
        part = flat[start : start + _BLOCK]
        part.copy_(block[: len(part)])


def _transformers() -> Any:
    import transformers

    return transformers


def _config(shape: dict[str, Any]) -> Any:
    transformers = _transformers()
    parts: dict[str, dict[str, Any]] = {"": {}, "depth": {}, "codec": {}}
    for key, value in shape.items():
        part = next((each for each in ("depth", "codec") if key.startswith(f"{each}_")), "")
        parts[part][key.removeprefix(f"{part}_") if part else key] = value
    tokens = {"bos_token_id": 256, "audio_token_id": 258, "audio_eos_token_id": 259, "pad_token_id": 258}
    config = transformers.CsmConfig(**{"rope_scaling": BACKBONE_ROPE, "codebook_eos_token_id": 0} | tokens | parts[""])
    depth = {
        "rope_scaling": DEPTH_ROPE,
        "backbone_hidden_size": config.hidden_size,
        "max_position_embeddings": config.num_codebooks + 1,
        "num_codebooks": config.num_codebooks,
        "vocab_size": config.vocab_size,
    }
    config.depth_decoder_config = transformers.CsmDepthDecoderConfig(**depth | parts["depth"])
    config.codec_config = transformers.MimiConfig(**{"num_quantizers": config.num_codebooks} | parts["codec"])
    return config
