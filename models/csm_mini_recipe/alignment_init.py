"""Where speech looks in its text, laid into the weights before anything is learnt.

A frame says one token (pronunciation.py), so a text of n tokens has each of its frames n positions and a few behind
the token it says. Attention with rotary positions can look back by a number that its query is told: turned by it, the
query is nearest to keys so far behind. A text ends with a token for its number of tokens, whose embedding is that
number as rotary angles; head 0 of layer 0 carries it to every frame of that text; and some heads of the next layers
turn by it. A model would find that last of all, and everything else builds on it. All of it may still change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Sizes in the residual stream: of what tells tokens and codes apart, of a mark of their kind, of a rotary angle.
_CONTENT, _MARK, _ANGLE = 0.1, 0.5, 0.24
_AHEAD = {1: (0, 1, -1), 2: (0, 1, 2)}  # per layer: how far from what is said its first heads look, in tokens
_LOUDER = {1: 1.2, 2: 2.6}  # per layer: for what others have added to the residual stream by then
# Nats at the right place from the first rotary pair, and from each that follows: 8 more than beside it.
_SHARP, _EVEN, _PAIRS = 16.0, 0.8, 20
_REACH = 1_000  # positions back where a text's end is still found
_NEARER = 6.0  # nats by which a text's end is preferred to another twice as far back


@torch.no_grad()
def point(model: Any, said: Sequence[int], counts: Mapping[int, int], end: int) -> None:
    """Lay it into a random CsmForConditionalGeneration, in place.

    said: the text tokens that are a frame each. counts: numbers of tokens, and the text token for each.
    end: `<|end_of_text|>`, which comes right behind that one.
    """
    backbone = model.backbone_model
    frequencies: Tensor = backbone.rotary_emb.inv_freq
    half, width = len(frequencies), 2 * len(frequencies)
    text_mark, count_mark, frame_mark, content = range(width, width + 4)  # the first `width` places are the angles
    texts, codes = model.embed_text_tokens.weight, backbone.embed_tokens.embed_audio_tokens.weight
    first_book, numbers = slice(model.config.vocab_size), list(counts.values())

    for table, size in ((texts, _CONTENT), (codes, _CONTENT * model.config.num_codebooks**-0.5)):
        table[:, :content] = 0.0
        table[:, content:].normal_()
        table.mul_(size / table.square().mean(1, keepdim=True).sqrt() * (1 - content / table.shape[1]) ** 0.5)
    codes[first_book, frame_mark] = texts[end, frame_mark] = _MARK  # the end of the text says the first frame
    texts[said, text_mark] = texts[numbers, count_mark] = _MARK
    texts[numbers, content:] = texts[numbers[0], content:]
    texts[numbers, :width] = _ANGLE * _angles(torch.tensor(list(counts))[:, None] * frequencies)
    token, count = _loudness(texts[said[0]]), _loudness(texts[numbers[0]])
    texts[numbers, text_mark] = _MARK * token / count  # the closing frame says it, and has to find it as any other
    frame = (codes.shape[1] / (_MARK**2 + _CONTENT**2 * (codes.shape[1] - content))) ** 0.5

    carrier = backbone.layers[0].self_attn
    for projection in (carrier.q_proj, carrier.k_proj, carrier.v_proj):
        projection.weight[:width] = 0.0
    carrier.q_proj.weight[:width, frame_mark] = _nearest(frequencies) * width**0.5 / (_MARK * frame)
    carrier.k_proj.weight[:half, count_mark] = 1 / (_MARK * count)
    carrier.v_proj.weight[:width, :width] = torch.eye(width) / (_ANGLE * count)
    carrier.o_proj.weight[:, :width] = 0.0
    carrier.o_proj.weight[:width] = 0.0
    carrier.o_proj.weight[:width, :width] = torch.eye(width) * _ANGLE

    told = (frame**-2 + half * _ANGLE**2 / codes.shape[1]) ** -0.5  # a frame's loudness, with the angles in it
    nats = torch.tensor([_SHARP] + [_EVEN] * (_PAIRS - 1) + [0.0] * (half - _PAIRS))
    for layer, heads in _AHEAD.items():
        attention = backbone.layers[layer].self_attn
        for head, ahead in enumerate(heads):
            rows = range(head * width, (head + 1) * width)
            cos, sin = _angles((1 - ahead) * frequencies).chunk(2)
            turned = torch.cat((torch.cat((cos.diag(), -sin.diag()), 1), torch.cat((-sin.diag(), -cos.diag()), 1)))
            turned *= nats.repeat(2)[:, None] * _LOUDER[layer]
            attention.q_proj.weight[rows] = attention.k_proj.weight[rows] = 0.0
            attention.q_proj.weight[rows, :width] = turned * width**0.5 / (_ANGLE * told)
            attention.k_proj.weight[rows[:half], text_mark] = 1 / (_MARK * token)
            attention.v_proj.weight[rows] = torch.randn(width, texts.shape[1]) * texts.shape[1] ** -0.5
    for number in range(max(_AHEAD)):  # nobody else writes to the angles
        backbone.layers[number].mlp.down_proj.weight[:width] = 0.0
        if number > 0:
            backbone.layers[number].self_attn.o_proj.weight[:width] = 0.0


def _angles(turns: Tensor) -> Tensor:
    """(…, pairs) -> (…, 2 * pairs), as rotary embeddings have them: all first parts, then all second ones."""
    return torch.cat((turns.cos(), turns.sin()), dim=-1)


def _loudness(embedding: Tensor) -> float:
    """What an RMSNorm multiplies it by."""
    return float(embedding.square().mean().rsqrt())


def _nearest(frequencies: Tensor) -> Tensor:
    """The query, (2 * pairs,), that likes a key of angle 0 the better the nearer it is, in nats, by least squares."""
    back = torch.arange(1, _REACH + 1, dtype=torch.float64)
    wanted = _NEARER * torch.log2((_REACH + 4) / (back + 4)) + 8  # 8: above all that is no text's end
    turns = back[:, None] * frequencies.double()
    basis = torch.cat((turns.cos(), -turns.sin()), dim=1)
    ridge = 0.1 * torch.eye(basis.shape[1], dtype=torch.float64)
    query: Tensor = torch.linalg.solve(basis.T @ basis + ridge, basis.T @ wanted).float()
    return query
