"""What changes the weights: AdamW, and a learning rate that is a function of the step alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from .settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over what requires a gradient. Norms and embeddings are not decayed: they have no scale to spare."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    spared = [each for each in trained if each.ndim < 2 or id(each) in embeddings]
    decayed = [each for each in trained if not (each.ndim < 2 or id(each) in embeddings)]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.learning_rate, betas=settings.betas, fused=True
    )


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Of the step, from 0 on."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = min((step - settings.warmup) / max(settings.steps - settings.warmup, 1), 1.0)
    falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * (settings.final_share + (1 - settings.final_share) * falling)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
