"""Held-out losses: teacher-forced cross-entropy on clips that are not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .batches import collate, group_by_length
from .losses import CsmLosses
from .sequence import Layout, Sequence


@torch.no_grad()
def held_out_losses(
    model: Any, layout: Layout, sequences: list[Sequence], max_positions: int, bfloat16: bool = False
) -> dict[str, float]:
    """Mean losses over all frames, in nats: {"held_out_first": …, "held_out_depth": …}."""
    losses, device = CsmLosses(model), model.device
    first = depth = 0.0
    targets = 0
    for group in group_by_length(sequences, layout, max_positions):
        batch = collate(group, layout, 1.0, np.random.default_rng(0)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            batch_losses = losses(batch)
        first += float(batch_losses.first.sum())
        depth += float(batch_losses.depth.mean(0).sum())
        targets += len(batch.targets)
    return {"held_out_first": first / targets, "held_out_depth": depth / targets}
