"""Initializes attention so that each frame attends to the text token that it speaks.

A frame speaks one token (pronunciation.py), so in a text of n tokens every frame lies n positions and a few behind its
token. Rotary attention can look back by a distance that its query contains: rotated by it, the query is most similar
to keys at that distance. A text ends with a count token, whose embedding is n as rotary angles; head 0 of layer 0
copies it to every frame of that text, and some heads of the next layers rotate by it. A randomly initialized model
learns this last, although everything else depends on it. All weights remain trainable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Scales in the residual stream: token and code content, type markers, rotary angles.
_CONTENT_SCALE, _MARKER_SCALE, _ANGLE_SCALE = 0.1, 0.5, 0.24
_HEAD_OFFSETS = {1: (0, 1, -1), 2: (0, 1, 2)}  # per layer: offset of its first heads from the spoken token, in tokens
_NORM_COMPENSATION = {1: 1.2, 2: 2.6}  # per layer: for what earlier layers have added to the residual stream
# Logits in nats at the right position from the first rotary pair, and from each further one: 8 more than beside it.
_FIRST_PAIR_NATS, _OTHER_PAIR_NATS, _PAIRS = 16.0, 0.8, 20
_MAX_DISTANCE = 1_000  # positions back at which a text's end is still found
_NATS_PER_OCTAVE = 6.0  # logit advantage of a text's end over another at twice the distance


@torch.no_grad()
def initialize_alignment(model: Any, frame_tokens: Sequence[int], counts: Mapping[int, int], end: int) -> None:
    """Initialize the alignment in a random CsmForConditionalGeneration, in place.

    frame_tokens: text tokens that take one frame each. counts: number of tokens -> its count token.
    end: `<|end_of_text|>`, which follows the count token.
    """
    backbone = model.backbone_model
    frequencies: Tensor = backbone.rotary_emb.inv_freq
    half, width = len(frequencies), 2 * len(frequencies)
    text_mark, count_mark, frame_mark, content = range(width, width + 4)  # the first `width` dimensions hold the angles
    texts, codes = model.embed_text_tokens.weight, backbone.embed_tokens.embed_audio_tokens.weight
    first_codebook, count_tokens = slice(model.config.vocab_size), list(counts.values())

    for table, size in ((texts, _CONTENT_SCALE), (codes, _CONTENT_SCALE * model.config.num_codebooks**-0.5)):
        table[:, :content] = 0.0
        table[:, content:].normal_()
        table.mul_(size / table.square().mean(1, keepdim=True).sqrt() * (1 - content / table.shape[1]) ** 0.5)
    # the end token predicts the first frame, so it is marked as a frame too
    codes[first_codebook, frame_mark] = texts[end, frame_mark] = _MARKER_SCALE
    texts[frame_tokens, text_mark] = texts[count_tokens, count_mark] = _MARKER_SCALE
    texts[count_tokens, content:] = texts[count_tokens[0], content:]
    texts[count_tokens, :width] = _ANGLE_SCALE * _angles(torch.tensor(list(counts))[:, None] * frequencies)
    token_gain, count_gain = _rms_gain(texts[frame_tokens[0]]), _rms_gain(texts[count_tokens[0]])
    # the count token is what the closing frame reads, so it is marked as a frame token too
    texts[count_tokens, text_mark] = _MARKER_SCALE * token_gain / count_gain
    initial_frame_gain = (codes.shape[1] / (_MARKER_SCALE**2 + _CONTENT_SCALE**2 * (codes.shape[1] - content))) ** 0.5

    carrier = backbone.layers[0].self_attn
    for projection in (carrier.q_proj, carrier.k_proj, carrier.v_proj):
        projection.weight[:width] = 0.0
    carrier.q_proj.weight[:width, frame_mark] = (
        _recency_query(frequencies) * width**0.5 / (_MARKER_SCALE * initial_frame_gain)
    )
    carrier.k_proj.weight[:half, count_mark] = 1 / (_MARKER_SCALE * count_gain)
    carrier.v_proj.weight[:width, :width] = torch.eye(width) / (_ANGLE_SCALE * count_gain)
    carrier.o_proj.weight[:, :width] = 0.0
    carrier.o_proj.weight[:width] = 0.0
    carrier.o_proj.weight[:width, :width] = torch.eye(width) * _ANGLE_SCALE

    # RMSNorm's gain of a frame, angles included
    frame_gain = (initial_frame_gain**-2 + half * _ANGLE_SCALE**2 / codes.shape[1]) ** -0.5
    pair_nats = torch.tensor([_FIRST_PAIR_NATS] + [_OTHER_PAIR_NATS] * (_PAIRS - 1) + [0.0] * (half - _PAIRS))
    for layer, heads in _HEAD_OFFSETS.items():
        attention = backbone.layers[layer].self_attn
        for head, offset in enumerate(heads):
            rows = range(head * width, (head + 1) * width)
            cos, sin = _angles((1 - offset) * frequencies).chunk(2)
            rotation = torch.cat((torch.cat((cos.diag(), -sin.diag()), 1), torch.cat((-sin.diag(), -cos.diag()), 1)))
            rotation *= pair_nats.repeat(2)[:, None] * _NORM_COMPENSATION[layer]
            attention.q_proj.weight[rows] = attention.k_proj.weight[rows] = 0.0
            attention.q_proj.weight[rows, :width] = rotation * width**0.5 / (_ANGLE_SCALE * frame_gain)
            attention.k_proj.weight[rows[:half], text_mark] = 1 / (_MARKER_SCALE * token_gain)
            attention.v_proj.weight[rows] = torch.randn(width, texts.shape[1]) * texts.shape[1] ** -0.5
    for number in range(max(_HEAD_OFFSETS)):  # no other module writes to the angles
        backbone.layers[number].mlp.down_proj.weight[:width] = 0.0
        if number > 0:
            backbone.layers[number].self_attn.o_proj.weight[:width] = 0.0


def _angles(angles: Tensor) -> Tensor:
    """(…, pairs) -> (…, 2 * pairs), in rotary embeddings' order: all cosines, then all sines."""
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _rms_gain(embedding: Tensor) -> float:
    """The factor that RMSNorm applies to an embedding."""
    return float(embedding.square().mean().rsqrt())


def _recency_query(frequencies: Tensor) -> Tensor:
    """Query (2 * pairs,) whose logit for a key of angle 0 falls with distance, fitted by least squares."""
    distance = torch.arange(1, _MAX_DISTANCE + 1, dtype=torch.float64)
    # 8: above every key that is not a text's end
    target = _NATS_PER_OCTAVE * torch.log2((_MAX_DISTANCE + 4) / (distance + 4)) + 8
    angles = distance[:, None] * frequencies.double()
    basis = torch.cat((angles.cos(), -angles.sin()), dim=1)
    ridge = 0.1 * torch.eye(basis.shape[1], dtype=torch.float64)
    query: Tensor = torch.linalg.solve(basis.T @ basis + ridge, basis.T @ target).float()
    return query
