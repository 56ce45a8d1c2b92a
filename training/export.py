"""Writes trained weights as a checkpoint directory in transformers' layout, for MODEL_PATH."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.model.adapter import AdaptedTensors
from engine.model.checkpoint import preferred_weights_file
from engine.model.weights import open_tensors

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".partial")
_CODEC_PREFIX = "codec_model."
# transformers writes tied embeddings under their other name, the only one that release 4 reads.
_TIED_DUPLICATE = "backbone_model.embed_tokens.embed_audio_tokens.weight"


def export_model(
    base: Path,
    tensors: Mapping[str, Tensor],
    directory: Path,
    dtype: torch.dtype | None = None,
    adapted: AdaptedTensors | None = None,
) -> Path:
    """Write these weights with the base's configuration, tokenizer and other files.

    tensors: CsmForConditionalGeneration's. dtype: of the weights; None takes the base's. adapted: the base's tensors
    with an adapter, where that is what is written. The codec's tensors come from it or else unchanged from the base,
    names included, since transformers 5 renames them in memory. The directory is created atomically. Raises
    FileExistsError if it is not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(errno.EEXIST, "already exists; name a new directory", str(directory))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("transformers_weights", None)  # lists the base's weight files
    base_tensors = open_tensors(base, preferred_weights_file(base))
    if dtype is None:
        dtype = base_tensors.get("lm_head.weight").dtype
    else:
        config["dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")
    if adapted is not None and adapted.unties_embeddings:
        config["tie_codebooks_embeddings"] = False
    codec = base_tensors if adapted is None else adapted
    exported = {name: codec.get(name) for name in codec if name.startswith(_CODEC_PREFIX)}
    untied = not config.get("tie_codebooks_embeddings", True)
    for name, tensor in tensors.items():
        if not name.startswith(_CODEC_PREFIX) and (untied or name != _TIED_DUPLICATE):
            exported[name] = tensor.detach().to("cpu", dtype).contiguous()
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in base.iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHT_SUFFIXES) and not path.name.startswith("."):
            shutil.copyfile(path, partial / path.name)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(exported, partial / "model.safetensors", metadata={"format": "pt"})
    os.replace(partial, directory)  # replaces an empty directory
    return directory
