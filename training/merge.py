"""csm-serve merge: base and adapter become a directory that MODEL_PATH serves."""

from __future__ import annotations

from pathlib import Path

import torch

from .base_model import load_base
from .export import export_model
from .lora import load_adapter, merged_tensors


def merge(base: str, adapter: Path, out: Path, token: str | None = None, dtype: torch.dtype | None = None) -> Path:
    """Write `out`. dtype: of the weights; None takes the base's.

    Raises CheckpointNotFound, CheckpointError, BaseError (the adapter is none, or of another base), FileExistsError.
    """
    loaded = load_base(base, token)  # in float32, and rounded once, behind the sum
    load_adapter(loaded, adapter)
    return export_model(loaded.directory, merged_tensors(loaded.model), out, dtype)
