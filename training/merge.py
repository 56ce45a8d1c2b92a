"""csm-serve merge: adds an adapter to its base and writes the result as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from .base_checkpoint import load_base
from .export import export_model
from .lora import load_adapter, merged_tensors


def merge(base: str, adapter: Path, out: Path, token: str | None = None, dtype: torch.dtype | None = None) -> Path:
    """Write `out`. dtype: of the weights; None takes the base's.

    Raises CheckpointNotFound, CheckpointError, BaseCheckpointError (an invalid adapter, or another base's) and
    FileExistsError.
    """
    loaded = load_base(base, token)  # in float32: rounded once, after the sum
    load_adapter(loaded, adapter)
    return export_model(loaded.directory, merged_tensors(loaded.model), out, dtype)
