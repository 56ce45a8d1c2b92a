"""AdamW and the learning rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from .settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over all parameters that require gradients, with weight decay on matrices except embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    undecayed = [each for each in trained if each.ndim < 2 or id(each) in embeddings]
    decayed = [each for each in trained if not (each.ndim < 2 or id(each) in embeddings)]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.learning_rate, betas=settings.betas, fused=True
    )


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate at a step, counted from 0: linear warm-up, then the schedule."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = min((step - settings.warmup) / max(settings.steps - settings.warmup, 1), 1.0)
    decay = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[
        settings.schedule
    ]
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * (settings.final_share + (1 - settings.final_share) * decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
