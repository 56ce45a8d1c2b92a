"""Mimi's streaming decoder: one frame of codes of every row to samples, in few operators.

Activations are (rows, positions, channels), so a convolution is the product of its windows with its weight, and no
layout changes. A transposed convolution of stride s is a convolution with s times the channels: s output positions side
by side. Reads no tensor values on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.packed_linear import PackedLinear, pack
from ..model.uninitialized import Uninitialized
from .ring import FrameAttention, KvRing, MaskedAttention, RingAttention, RingShape, frame_rotation, rotation_speeds
from .windows import Windows, WindowShape, unfolded_windows

# Of a frame. With more positions a product is bound by arithmetic, and packing its weight gains nothing.
_MAX_PACKED_POSITIONS = 16


@dataclass(frozen=True)
class Operators:
    """The parts of a frame that are no single operator of PyTorch; on a GPU each is one kernel, see `kernels`."""

    windows: Windows = unfolded_windows
    attention: RingAttention = MaskedAttention


PLAIN = Operators()


@dataclass
class DecoderState:
    """Streaming state of all rows, at fixed addresses. Zeros are the state before the first frame."""

    ring: KvRing
    past: Tensor  # (rows, size): the newest inputs of every convolution, one after the other

    def tensors(self) -> tuple[Tensor, ...]:
        return self.ring.slots, self.ring.position, self.past

    def reset(self, rows: Tensor) -> None:
        """Reset the rows of a mask, bool (rows,). Slots are skipped: at position 0 none of them is read."""
        self.ring.position.masked_fill_(rows, 0)
        self.past.masked_fill_(rows[:, None], 0)


@dataclass
class _Frame:
    """What the layers of one frame share."""

    windows: Windows
    attend: FrameAttention
    past: Tensor
    fresh: Tensor  # `past` of the next frame, for rows that are active


class Product(nn.Module):
    """A linear layer whose weight can be packed on a CPU: (tokens, in) -> (tokens, out)"""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        with Uninitialized():
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        self.inputs = weight.shape[1]
        self.linear: nn.Linear | PackedLinear = linear
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.linear, nn.Linear):
            return F.linear(x, self.linear.weight, self.bias)
        y: Tensor = self.linear(x)
        return y if self.bias is None else y.add_(self.bias)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """total += the product without bias"""
        if isinstance(self.linear, nn.Linear):
            total.addmm_(x, self.linear.weight.t())
        else:
            total += self.linear(x)


class CausalConv(nn.Module):
    """A streaming convolution: (rows, positions, channels) -> (rows, stride * positions, out channels)"""

    def __init__(self, product: Product, shape: WindowShape, stride: int, offset: int, positions: int) -> None:
        """positions: of its input, per frame. offset: of its inputs in the state's `past`."""
        super().__init__()
        self.product, self.shape, self.stride, self.positions = product, shape, stride, positions
        self._slice = slice(offset, offset + shape.past * shape.channels)

    def forward(self, x: Tensor, update: Tensor | None, frame: _Frame) -> Tensor:
        """update: added to x first. x may be overwritten."""
        past, fresh = frame.past[:, self._slice], frame.fresh[:, self._slice]
        y = self.product(frame.windows(x, update, past, fresh, self.shape))
        return cast(Tensor, y).view(x.shape[0], self.stride * x.shape[1], -1)


class ResidualBlock(nn.Module):
    """x -> the update of x, of the same shape"""

    def __init__(self, conv: CausalConv, product: Product) -> None:
        super().__init__()
        self.conv, self.product = conv, product

    def forward(self, x: Tensor, frame: _Frame) -> Tensor:
        hidden = F.elu_(self.conv(x, None, frame))
        return cast(Tensor, self.product(hidden.flatten(0, 1))).view_as(x)


class Layer(nn.Module):
    """One transformer layer, in place on x (tokens, hidden)."""

    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = layer.norm1, layer.norm2
        self.qkv = Product(layer.self_attn.in_projs[0].weight.detach())
        self.out = Product(_scaled(layer.self_attn.out_projs[0].weight, layer.layer_scale_1))
        self.up = Product(layer.linear1.weight.detach())
        self.down = Product(_scaled(layer.linear2.weight, layer.layer_scale_2))

    def forward(self, x: Tensor, rows: int, index: int, frame: _Frame) -> None:
        qkv = self.qkv(self.attention_norm(x))
        self.out.add_to(x, frame.attend(index, qkv.view(rows, -1, 3, self.heads, x.shape[1] // self.heads)))
        self.down.add_to(x, F.gelu(self.up(self.mlp_norm(x))))


class MimiDecoder(nn.Module):
    """The decoder of a moshi MimiModel, with weights of its own or shared with the model.

    operators: replaced by kernels where they work, see `kernels.verified_operators`.
    """

    table: Tensor  # (codebooks * bins, dim): the embeddings of all codebooks
    book_offsets: Tensor  # (codebooks,): the first row of each codebook in the table
    speeds: Tensor  # radians per position of each rotated pair

    @torch.no_grad()
    def __init__(self, mimi: Any) -> None:
        super().__init__()
        self.operators = PLAIN
        first, rest = mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest
        books = [layer._codebook for part in (first, rest) for layer in part.vq.layers][: mimi.num_codebooks]
        table = torch.cat([book.embedding for book in books])
        for book, embedding in zip(books, table.chunk(len(books)), strict=True):
            book._embedding = embedding  # moshi's cache, for encoding
        self.register_buffer("table", table, persistent=False)
        starts = torch.arange(len(books), device=table.device)
        self.register_buffer("book_offsets", starts * mimi.cardinality, persistent=False)
        transformer = mimi.decoder_transformer.transformer
        step = mimi.upsample.convtr._stride
        attention = transformer.layers[0].self_attn
        self.ring_shape = RingShape(
            layers=len(transformer.layers),
            heads=attention.num_heads,
            head_dim=attention.embed_dim // attention.num_heads,
            context=attention.context,
            step=step,
            period=transformer.max_period,
        )
        self.register_buffer("speeds", rotation_speeds(self.ring_shape, table.device), persistent=False)
        self.past_size = 0  # numbers of a row's `past`
        projections = torch.cat([part.output_proj.weight[:, :, 0] for part in (first, rest)], dim=1)
        self.upsample = self._conv(Product(_upsampling(mimi.upsample.convtr.convtr.convtr, projections)), 2, 1, step)
        self.layers = nn.ModuleList(Layer(layer, attention.num_heads) for layer in transformer.layers)
        self.convs = nn.ModuleList(self._convs(mimi.decoder.model, step))

    def _convs(self, modules: Any, positions: int) -> list[nn.Module]:
        """moshi's sequence of convolutions, ELUs (each belongs to the next convolution) and residual blocks."""
        convs: list[nn.Module] = []
        elu = False
        for module in modules:
            if isinstance(module, nn.ELU):
                elu = True
                continue
            if hasattr(module, "block"):
                _, conv, _, last = module.block
                inner = self._causal(conv.conv.conv, positions, elu=True)
                convs.append(ResidualBlock(inner, Product(last.conv.conv.weight[:, :, 0], last.conv.conv.bias)))
            elif hasattr(module, "conv"):
                convs.append(self._causal(module.conv.conv, positions, elu))
            else:
                conv = module.convtr.convtr
                stride = conv.stride[0]
                weight, bias = _transposed_weight(conv.weight, stride), conv.bias.repeat(stride)
                convs.append(
                    self._conv(Product(weight, bias), conv.kernel_size[0] // stride, positions, stride, elu=elu)
                )
                positions *= stride
            elu = False
        return convs

    def _causal(self, conv: nn.Conv1d, positions: int, elu: bool) -> CausalConv:
        weight = conv.weight.transpose(1, 2).flatten(1)
        return self._conv(Product(weight, conv.bias), conv.kernel_size[0], positions, 1, conv.dilation[0], elu)

    def _conv(
        self, product: Product, taps: int, positions: int, stride: int, dilation: int = 1, elu: bool = False
    ) -> CausalConv:
        shape = WindowShape(taps, dilation, product.inputs // taps, elu)
        conv = CausalConv(product, shape, stride, self.past_size, positions)
        self.past_size += shape.past * shape.channels
        return conv

    def pack(self) -> None:
        """Pack the weights for a CPU. Call it after the number of threads is set."""
        convs = (module for module in self.modules() if isinstance(module, CausalConv))
        pack(nn.ModuleList((self.layers, *(conv for conv in convs if conv.positions <= _MAX_PACKED_POSITIONS))))

    def allocate(self, rows: int) -> DecoderState:
        device = self.table.device
        return DecoderState(KvRing(self.ring_shape, rows, device), torch.zeros(rows, self.past_size, device=device))

    def forward(self, codes: Tensor, active: Tensor, state: DecoderState) -> Tensor:
        """One frame of the first rows: codes int64 (rows, codebooks), active bool (rows,) -> samples (rows, 1920).

        Inactive rows keep their state; their samples are undefined.
        """
        rows, ring, past = codes.shape[0], state.ring, state.past[: codes.shape[0]]
        attend = self.operators.attention(ring, frame_rotation(ring, self.speeds, rows))
        frame = _Frame(self.operators.windows, attend, past, torch.empty_like(past))
        x: Tensor = self.upsample(self._embed(codes), None, frame)
        tokens = x.flatten(0, 1)
        for index, layer in enumerate(self.layers):
            layer(tokens, rows, index, frame)
        update: Tensor | None = None
        for module in self.convs:
            if isinstance(module, CausalConv):
                x, update = module(x, update, frame), None
            else:
                x = x if update is None else x + update
                update = module(x, frame)
        torch.where(active[:, None], frame.fresh, past, out=past)
        ring.position[:rows] += active * self.ring_shape.step
        return x.view(rows, -1)

    def _embed(self, codes: Tensor) -> Tensor:
        """The first codebook's embeddings beside the sum of the others': (rows, codebooks) -> (rows, 1, 2 * dim)"""
        rows, books = codes.shape
        first = torch.arange(0, rows * books, books, device=codes.device)
        bags = torch.stack((first, first + 1), dim=1).flatten()
        summed = F.embedding_bag((codes + self.book_offsets).flatten(), self.table, bags, mode="sum")
        return summed.view(rows, 1, -1)


def _scaled(weight: Tensor, layer_scale: nn.Module) -> Tensor:
    """The weight of a product that a LayerScale follows."""
    scale = getattr(layer_scale, "scale", None)
    return weight.detach() if scale is None else weight * scale[:, None]


def _transposed_weight(weight: Tensor, stride: int) -> Tensor:
    """(in, out, kernel) -> (stride * out, taps * in): input `tap` frames back reaches outputs from tap * stride on."""
    channels, out, kernel = weight.shape
    taps = weight.view(channels, out, kernel // stride, stride).flip(2)  # windows hold the oldest input first
    return taps.permute(3, 1, 2, 0).reshape(stride * out, -1)


def _upsampling(conv: nn.ConvTranspose1d, projection: Tensor) -> Tensor:
    """The channelwise upsampling of a projection, as one product with the windows of the projection's input."""
    stride = conv.stride[0]
    factors = conv.weight[:, 0].view(len(projection), -1, stride).flip(1)  # (hidden, taps, stride)
    return torch.einsum("hts,hd->shtd", factors, projection).reshape(stride * len(projection), -1)
