"""A hint where to look: speech runs along its text, so one head in some layers is told to (Tachibana 2017)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import Batch
from ..losses import Losses

_LAYERS = (1, 2)
_WIDTH = 0.12  # of a text's length: how far from even progress a look may go
_BEFORE_LETTERS = 4  # the begin token and the speaker's brackets


class Guidance:
    """The attention of head 0 of some backbone layers, held near the letters that are being said.

    An `extra_loss` for the trainer: from 0, all looks are where they should be, to 1.
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
        astray, speaks = _astray(batch)
        total = losses.first.new_zeros(())
        for attention, x in self._inputs:
            look = self._look(attention, x)
            total = total + ((look * astray).sum(-1) * speaks).sum() / speaks.sum()
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


def _astray(batch: Batch) -> tuple[Tensor, Tensor]:
    """How wrong a look from place to place is, (rows, length, length), and which places speak, (rows, length).

    A place speaks if the next one is a frame; it should look at its own segment's text, as far in as the speech is.
    """
    device = batch.texts.device
    kind = torch.zeros(batch.rows * batch.length, device=device)
    kind[batch.text_places] = 1
    kind[batch.frame_places] = 2
    kind = kind.view(batch.rows, batch.length)
    text, frame = kind == 1, kind == 2
    begins = text & ~F.pad(text, (1, 0))[:, :-1]
    segment = begins.cumsum(1)
    most = int(segment.max()) + 1
    flat = segment + torch.arange(batch.rows, device=device)[:, None] * most
    along = torch.arange(batch.length, device=device)
    none = torch.zeros(batch.rows * most, device=device)
    tokens, frames = (none.index_add(0, flat.flatten(), each.flatten().float())[flat] for each in (text, frame))
    starts = none.index_add(0, flat[begins], along.repeat(batch.rows, 1)[begins].float())[flat]
    place = along - starts
    letters = (tokens - _BEFORE_LETTERS - 1).clamp(min=1)
    along_text = (place - _BEFORE_LETTERS) / letters  # of keys
    along_speech = (place + 1 - tokens) / frames.clamp(min=1)  # of queries: one place before
    apart = along_text[:, None, :] - along_speech[:, :, None]
    wrong = 1 - torch.exp(-(apart**2) / (2 * _WIDTH**2))
    own = text[:, None, :] & (segment[:, None, :] == segment[:, :, None])
    speaks = F.pad(frame, (0, 1))[:, 1:].float()
    return torch.where(own, wrong, 1.0), speaks
