"""What a run computes on, and how finely."""

from __future__ import annotations

import torch

from .errors import TrainingError
from .settings import TrainSettings


def uses_cuda(settings: TrainSettings) -> bool:
    """Raises TrainingError where CUDA is asked for and is not there."""
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise TrainingError("device is cuda, but PyTorch finds no CUDA device here; use auto or cpu")
    return there and settings.device != "cpu"


def uses_bfloat16(settings: TrainSettings) -> bool:
    """Left to itself, a run computes in bfloat16 where a GPU does so natively."""
    if settings.precision == "auto":
        return uses_cuda(settings) and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.precision == "bfloat16"
