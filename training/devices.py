"""Selects a run's device and precision."""

from __future__ import annotations

import torch

from .errors import TrainingError
from .settings import TrainSettings


def uses_cuda(settings: TrainSettings) -> bool:
    """Raises TrainingError if CUDA is requested but unavailable."""
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise TrainingError("device is cuda, but PyTorch finds no CUDA device; use auto or cpu")
    return available and settings.device != "cpu"


def uses_bfloat16(settings: TrainSettings) -> bool:
    """Whether a run computes in bfloat16; "auto" does so where the GPU supports it natively."""
    if settings.precision == "auto":
        return uses_cuda(settings) and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.precision == "bfloat16"
