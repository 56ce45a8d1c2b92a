"""A hint where to look: speech runs along its text, so one head in some layers is told to (Tachibana 2017)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import Batch
from ..losses import Losses

_LAYERS = (1, 2)
_WIDTH = 0.7  # tokens: how far from what is being said a look may go
_LEAST = 1e-3  # of a look that is all astray


class Guidance:
    """The attention of head 0 of some backbone layers, held near the token that is being said.

    An `extra_loss` for the trainer: how unlikely a look at the right place is, in nats.
    """

    def __init__(self, model: Any, weight: float) -> None:
        self._weight = weight
        self._rotary = model.backbone_model.rotary_emb
        self._inputs: list[tuple[Any, Tensor]] = []
        for number in _LAYERS:
            model.backbone_model.layers[number].self_attn.register_forward_pre_hook(self._notice, with_kwargs=True)

    def _notice(self, attention: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        self._inputs.append((attention, keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]))

    def __call__(self, losses: Losses, batch: Batch) -> Tensor:
        near, speaks = _near(batch)
        total = losses.first.new_zeros(())
        for attention, x in self._inputs:
            right = (self._look(attention, x) * near).sum(-1)
            total = total - (torch.log(right + _LEAST) * speaks).sum() / speaks.sum()
        self._inputs.clear()
        return self._weight * total / len(_LAYERS)

    def _look(self, attention: Any, x: Tensor) -> Tensor:
        """Head 0's attention, (rows, length, length)."""
        dim = attention.head_dim
        cos, sin = self._rotary(x, torch.arange(x.shape[1], device=x.device)[None])
        q, k = (_rotate(F.linear(x, each.weight[:dim]), cos, sin) for each in (attention.q_proj, attention.k_proj))
        scores = (q @ k.transpose(1, 2)).float() * dim**-0.5
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        look: Tensor = scores.masked_fill(future, float("-inf")).softmax(-1)
        return look


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _near(batch: Batch) -> tuple[Tensor, Tensor]:
    """How right a look from place to place is, (rows, length, length), and which places know, (rows, length).

    A frame is said by the place before it.
    """
    known = ~batch.looks.isnan()
    places = batch.frame_places[known] - 1
    speaks = torch.zeros(batch.rows * batch.length, device=batch.looks.device)
    wanted = speaks.clone()
    speaks[places], wanted[places] = 1.0, batch.looks[known]
    apart = torch.arange(batch.length, device=wanted.device) - wanted.view(batch.rows, batch.length, 1)
    return torch.exp(-(apart**2) / (2 * _WIDTH**2)), speaks.view(batch.rows, batch.length)
