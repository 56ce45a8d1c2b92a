"""The depth decoder's weights in the order in which the kernel's blocks stream them, see depth.cu.

A tile is 8 outputs by all inputs of the depth decoder's width, or by a part of as many of a wider input. Inside, 32
inputs of the 8 outputs follow one another, 8 inputs an output: what a lane multiplies with at once is 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..config import CsmConfig
from ..csm import CsmModel
from ..transformer import Layer

TILE_ROWS = 8
MAX_ROWS = 4
WARPS = 8
POSITIONS = 32  # of the kernel's cache
_LANE_INPUTS = 8
_UNIT = 4 * _LANE_INPUTS  # inputs that a warp multiplies with at once


def unsupported(config: CsmConfig, sampled_vocab: int, dtype: torch.dtype, heads: nn.ModuleList) -> str:
    """Why the kernel cannot compute this model; empty if it can. heads: the model's, to tell int8 weights."""
    depth = config.depth
    if dtype != torch.bfloat16:
        return f"it computes in bfloat16, not {str(dtype).removeprefix('torch.')}"
    if not all(isinstance(head, nn.Linear) for head in heads):
        return "it reads no int8 weights"
    blocks = depth.hidden // TILE_ROWS
    qkv = (depth.heads + 2 * depth.kv_heads) * depth.head_dim // TILE_ROWS
    fits = (
        depth.hidden % (WARPS * _UNIT) == 0
        and depth.heads * depth.head_dim == depth.hidden
        and depth.head_dim % _UNIT == 0
        and depth.heads == 4 * depth.kv_heads
        and depth.kv_heads * MAX_ROWS <= WARPS
        and blocks < qkv <= 2 * blocks
        and depth.intermediate % depth.hidden == 0
        and config.backbone.hidden % depth.hidden == 0
        and sampled_vocab % (4 * 32 * WARPS) == 0
        and sampled_vocab % depth.hidden == 0
        and 2 <= config.codebooks <= POSITIONS
    )
    return "" if fits else "its tiles do not divide the depth decoder"


def tiles(weight: Tensor, hidden: int) -> Tensor:
    """(outputs, inputs) -> (outputs / 8, inputs / hidden, 8 * hidden)"""
    outputs, inputs = weight.shape
    units = weight.view(outputs // TILE_ROWS, TILE_ROWS, inputs // hidden, hidden // _UNIT, _UNIT).permute(
        0, 2, 3, 1, 4
    )
    return units.reshape(outputs // TILE_ROWS, inputs // hidden, TILE_ROWS * hidden)


def qkv_ranks(blocks: int, layer: int) -> Tensor:
    """The first tile of each block, see depth.cu."""
    return (torch.arange(blocks) + layer * (blocks // 2)) % blocks


@dataclass(frozen=True)
class PackedDepth:
    """Copies of the weights in streaming order, and of small tables in the kernel's layout."""

    opening: Tensor  # (blocks, slots, tile): the first head and the projection
    layers: Tensor  # (blocks, slots, tile)
    heads: Tensor  # (codebooks - 1, blocks, slots, tile)
    norms: Tensor  # (2 * layers + 1, hidden)

    @staticmethod
    def of(model: CsmModel) -> PackedDepth:
        """Raises ValueError for a model that is not supported."""
        reason = unsupported(model.config, model.sampled_vocab, model.dtype, model.heads)
        if reason:
            raise ValueError(f"the persistent kernel cannot compute this model: {reason}")
        depth, hidden = model.depth, model.config.depth.hidden
        blocks = hidden // TILE_ROWS
        first = tiles(model.first_head.weight.detach(), hidden)
        projection = tiles(model.depth_projection.weight.detach(), hidden)
        opening = torch.cat((first.view(blocks, -1, first.shape[-1]), projection), dim=1)
        layers, linear = cast(list[Layer], list(depth.layers)), cast(list[nn.Linear], list(model.heads))
        parts = [_layer(layer, index, model) for index, layer in enumerate(layers)]
        heads = [tiles(head.weight.detach(), hidden).view(blocks, -1, TILE_ROWS * hidden) for head in linear]
        norms = [norm.weight.detach() for each in layers for norm in (each.attention_norm, each.mlp_norm)]
        return PackedDepth(
            opening.contiguous(),
            _one_behind_the_other(parts),
            torch.stack(heads),
            torch.stack([*norms, depth.norm.weight.detach()]),
        )


def _layer(layer: Layer, index: int, model: CsmModel) -> list[Tensor]:
    """The tiles of each block, (slots, tile): one or two of QKV, then out, gate and up, down."""
    config = model.config.depth
    hidden, blocks = config.hidden, config.hidden // TILE_ROWS
    qkv = layer.attention.qkv.weight.detach().view(-1, 2, config.head_dim // TILE_ROWS, TILE_ROWS // 2, hidden)
    rotated = tiles(qkv.transpose(1, 2).reshape(-1, hidden), hidden)[:, 0]  # 4 outputs of both halves of a head
    gate, up = layer.mlp.gate_up.weight.detach().view(2, -1, TILE_ROWS // 2, hidden)
    gate_up = tiles(torch.stack((gate, up), dim=1).reshape(-1, hidden), hidden)
    rest = torch.cat(
        (
            tiles(layer.attention.out.weight.detach(), hidden),
            gate_up.view(blocks, -1, TILE_ROWS * hidden),
            tiles(layer.mlp.down.weight.detach(), hidden),
        ),
        dim=1,
    )
    return [torch.cat((rotated[rank::blocks], rest[block])) for block, rank in enumerate(qkv_ranks(blocks, index))]


def _one_behind_the_other(layers: list[list[Tensor]]) -> Tensor:
    """(blocks, slots, tile), where a block with fewer tiles has zeros behind them."""
    blocks = [torch.cat(each) for each in zip(*layers, strict=True)]
    return nn.utils.rnn.pad_sequence(blocks, batch_first=True)
