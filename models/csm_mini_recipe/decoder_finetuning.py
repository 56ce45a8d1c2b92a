"""Samples codes from the language model under teacher forcing, one frame for each recorded frame.

Sampled codes differ from the encoder's, since the finer codebooks are half random. A decoder finetuned from sampled
codes to the recordings maps them to likely audio and is more intelligible.
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
def sample_codes(model: Any, batch: Batch, temperature: float, top_k: int) -> Tensor:
    """Sample codes for every target frame, given the recorded frames before it: int64 (targets, codebooks).

    Uses torch's global generator.
    """
    losses = CsmLosses(model)
    hidden = losses.backbone_hidden(batch)
    codes = _sample(model.lm_head(hidden), temperature, top_k)[:, None]
    for _ in range(1, losses.codebooks):
        next_codes = _sample(losses.depth_logits(hidden, codes)[-1], temperature, top_k)
        codes = torch.cat((codes, next_codes[:, None]), dim=1)
    return codes


def sample_all_codes(
    model: Any, layout: Layout, examples: Sequence[Example], max_positions: int, temperature: float, top_k: int
) -> Iterator[tuple[str, Codes]]:
    """Yields (name, sampled codes (frames, codebooks)) in any order. The speaker number selects the voice."""
    by_name = {example.name: example for example in examples}
    for group in group_by_length([Row((example,)) for example in examples], layout, max_positions):
        sampled = (
            sample_codes(model, collate(group, layout, 0.0, np.random.default_rng(0)), temperature, top_k).cpu().numpy()
        )
        for row in group:
            name = row.segments[0].name
            frames, sampled = np.split(sampled, [len(by_name[name].codes) + 1])
            yield name, frames[:-1]  # without the closing frame


def _sample(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    """Logits (n, vocab) -> codes (n,) that the codec has."""
    logits = logits[:, :CODES]
    threshold = logits.topk(top_k).values[:, -1:]
    probabilities = (logits / temperature).masked_fill(logits < threshold, float("-inf")).softmax(-1)
    return torch.multinomial(probabilities, 1)[:, 0]
