"""Codes as the language model says them, of recordings that are there: a frame for each frame of what was recorded.

What it says is not what the codec's encoder gives: the finer codebooks are half chance. A decoder that has learnt from
such codes what the recording sounds like makes of chance what is likely, and speaks clearer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.types import Codes
from training.batches import Batch, collate, group_by_length
from training.example import Example
from training.losses import CsmLosses
from training.sequence import Layout
from training.sequence import Sequence as Row

from .codec import CODES


@torch.no_grad()
def draw(model: Any, batch: Batch, temperature: float, top_k: int) -> Tensor:
    """Codes for every frame that is to be learnt, after what was really said before it: int64 (targets, codebooks).

    Takes torch's global random numbers.
    """
    losses = CsmLosses(model)
    before = losses.backbone_hidden(batch)
    codes = _pick(model.lm_head(before), temperature, top_k)[:, None]
    for _ in range(1, losses.codebooks):
        more = _pick(losses.depth_logits(before, codes)[-1], temperature, top_k)
        codes = torch.cat((codes, more[:, None]), dim=1)
    return codes


def draw_all(
    model: Any, layout: Layout, examples: Sequence[Example], max_positions: int, temperature: float, top_k: int
) -> Iterator[tuple[str, Codes]]:
    """Of each example its name and (frames, codebooks), in any order. The speaker's number tells the voice."""
    of = {example.name: example for example in examples}
    for group in group_by_length([Row((example,)) for example in examples], layout, max_positions):
        drawn = draw(model, collate(group, layout, 0.0, np.random.default_rng(0)), temperature, top_k).cpu().numpy()
        for row in group:
            name = row.segments[0].name
            frames, drawn = np.split(drawn, [len(of[name].codes) + 1])
            yield name, frames[:-1]  # without the closing one


def _pick(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    """(n, vocab) -> (n,), a code that the codec has"""
    logits = logits[:, :CODES]
    least = logits.topk(top_k).values[:, -1:]
    chances = (logits / temperature).masked_fill(logits < least, float("-inf")).softmax(-1)
    return torch.multinomial(chances, 1)[:, 0]
