"""How well clips are known that were never learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .batches import collate, split
from .losses import CsmLosses
from .sequence import Layout, Sequence


@torch.no_grad()
def measure(
    model: Any, layout: Layout, sequences: list[Sequence], max_positions: int, bfloat16: bool = False
) -> dict[str, float]:
    """The two losses over all their frames, in nats: {"held_out_first": …, "held_out_depth": …}."""
    losses, device = CsmLosses(model), model.device
    first = depth = 0.0
    targets = 0
    for group in split(sequences, layout, max_positions):
        batch = collate(group, layout, 1.0, np.random.default_rng(0)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            found = losses(batch)
        first += float(found.first.sum())
        depth += float(found.depth.mean(0).sum())
        targets += len(batch.targets)
    return {"held_out_first": first / targets, "held_out_depth": depth / targets}
