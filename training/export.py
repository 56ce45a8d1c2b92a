"""A directory that MODEL_PATH serves as it is: the base's files, with other weights."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.model.checkpoint import preferred_weights_file
from engine.model.weights import open_tensors

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".partial")
_CODEC = "codec_model."
# Of the two names of tied embeddings, the one that transformers writes; its release 4 reads no other.
_OTHER_NAME = "backbone_model.embed_tokens.embed_audio_tokens.weight"


def export_model(base: Path, tensors: dict[str, Tensor], directory: Path, dtype: torch.dtype | None = None) -> Path:
    """Write the base's configuration, tokenizer and what else lies beside its weights, and these weights.

    tensors: CsmForConditionalGeneration's. dtype: of them; None takes the base's. The codec is the base's own, bit by
    bit and name by name: transformers 5 has other names for it in memory than on disk. The directory appears whole
    or not at all. Raises FileExistsError if something is there.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(errno.EEXIST, "is there already; name a new directory", str(directory))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("transformers_weights", None)  # names files of the base
    stored = open_tensors(base, preferred_weights_file(base))
    if dtype is None:
        dtype = stored.get("lm_head.weight").dtype
    else:
        config["dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")
    laid = {name: stored.get(name) for name in stored if name.startswith(_CODEC)}
    untied = not config.get("tie_codebooks_embeddings", True)
    for name, tensor in tensors.items():
        if not name.startswith(_CODEC) and (untied or name != _OTHER_NAME):
            laid[name] = tensor.detach().to("cpu", dtype).contiguous()
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in base.iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHTS) and not path.name.startswith("."):
            shutil.copyfile(path, partial / path.name)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(laid, partial / "model.safetensors", metadata={"format": "pt"})
    os.replace(partial, directory)  # also over an empty directory
    return directory
