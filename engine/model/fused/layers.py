"""Work buffers and launches of the fused products: what a frame's step and a prefill pass have in common."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from ..config import CsmConfig, TransformerConfig
from ..csm import CsmModel
from ..int8_linear import Int8Linear
from ..kv_cache import KvCache
from ..transformer import Layer, RMSNorm, Transformer
from . import products
from .kernel_parts import SQUARED

_INTERPRETED = triton.knobs.runtime.interpret
_MULTIPLE = 64  # of every width: a product is split into that many columns at least
_SMALL_BLOCK = 16  # outputs a program of a small product: it has few weights, so many programs read them
_LARGE_BLOCK = 64  # outputs a program of gate, up and down; from 64 on Hopper's tensor cores take another instruction
_PROGRAMS = 128  # wanted for a product, of which an H100 runs 132 at once
_MAX_SPLITS = 8
_MAX_CHUNK = 64  # columns of weights that are read at once
# Loads in flight by tokens a program: no more than fits into the 99 KiB of shared memory of the smaller GPUs.
_SMALL_STAGES = {16: 4, 64: 3, 128: 2}
_LARGE_STAGES = {16: 4, 64: 4, 128: 3}
DTYPES = (torch.bfloat16, torch.float32)


def unsupported(config: CsmConfig, dtype: torch.dtype) -> str:
    """Why the fused kernels cannot compute this model; empty if they can."""
    if dtype not in DTYPES:
        return f"they compute in bfloat16 or float32, not {str(dtype).removeprefix('torch.')}"
    for name, part in (("backbone", config.backbone), ("depth decoder", config.depth)):
        for what, width in (
            ("hidden size", part.hidden),
            ("intermediate size", part.intermediate),
            ("size of all heads", part.heads * part.head_dim),
        ):
            if width % _MULTIPLE:
                return f"the {name}'s {what} is {width}, no multiple of {_MULTIPLE}"
        if part.head_dim < 16 or part.head_dim & (part.head_dim - 1):
            return f"the {name}'s head size is {part.head_dim}, no power of two from 16 on"
    return ""


def block_of(rows: int) -> int:
    """Tokens a program has, by the rows of a step. A token's result does not depend on it."""
    return 16 if rows <= 16 else 64 if rows <= 64 else 128


def _chunk(columns: int) -> int:
    """The largest power of two that divides a number of columns, at most _MAX_CHUNK."""
    return min(columns & -columns, _MAX_CHUNK)


def splits_of(size: int, columns: int) -> int:
    """Into how many parts the columns of `down` are split: it has few outputs, each a sum of many terms.

    A function of the weight's shape alone, like every order of summation.
    """
    splits = 1
    while (
        2 * splits <= _MAX_SPLITS
        and size // _LARGE_BLOCK * 2 * splits <= _PROGRAMS
        and columns % (2 * splits * _MULTIPLE) == 0
    ):
        splits *= 2
    return splits


@dataclass(frozen=True)
class Weight:
    """Weights of a linear layer as the kernels read them: (outputs, inputs), and int8's scales (outputs,)."""

    tensor: Tensor
    scale: Tensor | None

    @staticmethod
    def of(layer: nn.Module) -> Weight:
        if isinstance(layer, Int8Linear):
            return Weight(layer.product.weight, layer.product.scale)
        assert isinstance(layer, nn.Linear)
        return Weight(layer.weight, None)

    def ahead(self, limit: int) -> int:
        """Bytes of each row to prefetch: a power of two, at most `limit`."""
        row = self.tensor.shape[1] * self.tensor.element_size()
        return 1 << (min(limit, row).bit_length() - 1)


@dataclass(frozen=True)
class Residual:
    """A residual stream, see kernel_parts."""

    x: Tensor  # (tokens, size)
    weighted: Tensor  # (tokens, size)
    squares: Tensor  # float32 (tokens, size / 16)

    @staticmethod
    def allocate(tokens: int, size: int, device: torch.device, dtype: torch.dtype) -> Residual:
        x, weighted = torch.zeros(2, tokens, size, device=device, dtype=dtype)
        return Residual(x, weighted, torch.zeros(tokens, size // SQUARED, device=device))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.weighted, self.squares


class FusedLayers:
    """The layers of backbone and depth decoder on work buffers of their own, on one stream at a time.

    A token's result is bit-identical among any number of tokens. The weights stay where they are.
    """

    def __init__(self, model: CsmModel, tokens: tuple[int, int], pdl: bool) -> None:
        """tokens: the most of the backbone and of the depth decoder, where 0 leaves it out.

        pdl: programmatic dependent launch, which needs a GPU of compute capability 9.0 or newer.
        """
        reason = unsupported(model.config, model.dtype)
        if reason:
            raise ValueError(f"fused kernels cannot compute this model: {reason}")
        self.model, self.pdl, self.compiling = model, pdl, False
        self._operands = tl.float32 if _INTERPRETED else getattr(tl, str(model.dtype).removeprefix("torch."))
        parts = tuple(zip((model.config.backbone, model.config.depth), tokens, strict=True))
        self.backbone, self.depth = (
            Residual.allocate(count, part.hidden, model.device, model.dtype) for part, count in parts
        )
        width = max(count * part.heads * part.head_dim for part, count in parts)
        self._q, self.attended = self.empty(width), self.empty(width)
        self._gated = self.empty(max(count * part.intermediate for part, count in parts))
        # A block may be larger than the number of tokens.
        padded = [(part, triton.cdiv(count, block) * block) for part, count in parts for block in (16, 64, 128)]
        self._partial = self.empty(
            max(count * part.hidden * splits_of(part.hidden, part.intermediate) for part, count in padded),
            dtype=torch.float32,
        )
        self._counters = self.empty(
            max(count // 16 * part.hidden // _LARGE_BLOCK for part, count in padded), dtype=torch.int32
        )

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros beside the weights, by default in their dtype."""
        return torch.zeros(shape, device=self.model.device, dtype=dtype or self.model.dtype)

    @property
    def nbytes(self) -> int:
        """Of the work buffers."""
        work = (self._q, self.attended, self._gated, self._partial)
        return sum(tensor.nbytes for tensor in (*work, *self.backbone.tensors, *self.depth.tensors))

    @contextmanager
    def compile_only(self, threads: int) -> Iterator[None]:
        """Launches inside compile their kernels, in parallel, where Triton's cache does not have them.

        Otherwise each is compiled at its first launch, one after the other. An error is raised by that launch.
        """
        self.compiling = True
        try:
            with ThreadPoolExecutor(threads) as executor, triton.AsyncCompileMode(executor, ignore_errors=True):
                yield
        finally:
            self.compiling = False

    def launch(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], dependent: bool = True, **constants: Any
    ) -> None:
        if self.pdl:
            constants["launch_pdl"] = dependent
        if self.compiling:
            kernel.warmup(*arguments, grid=grid, PDL=self.pdl, **constants)
        else:
            kernel[grid](*arguments, PDL=self.pdl, **constants)

    def product(
        self, kernel: Any, columns: int, weight: Weight, arguments: tuple[Any, ...], tokens: int, rows: int,
        block: int, splits: int = 1, **constants: Any,
    ) -> None:  # fmt: skip
        """columns: outputs of which each program has `block`."""
        tile, large = block_of(rows), block == _LARGE_BLOCK
        chains = 1 if large else 4
        self.launch(
            kernel,
            (triton.cdiv(columns, block), triton.cdiv(tokens, tile), splits),
            arguments,
            BLOCK_M=tile,
            CHUNK=_chunk(weight.tensor.shape[1] // splits // chains),
            STAGES=(_LARGE_STAGES if large else _SMALL_STAGES)[tile],
            OPERANDS=self._operands,
            AHEAD=weight.ahead(512 if large else 2048),
            num_warps=4 if large or tile > 16 else 2,
            enable_fp_fusion=False,
            **constants,
        )

    def qkv(
        self, transformer: Transformer, index: int, stream: Residual, cache: KvCache, tokens: int, rows: int,
        start: int = 0, positions: Tensor | None = None, cache_rows: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Write keys and values into the cache; returns the queries, (tokens, heads, head_dim).

        positions, cache_rows: int64 (tokens,). Without them token t has position `start` + t // `rows`, and row
        t % `rows`.
        """
        config, weight = transformer.config, Weight.of(layers_of(transformer)[index].attention.qkv)
        q = self._q[: tokens * config.heads * config.head_dim].view(tokens, config.heads, config.head_dim)
        self.product(
            products.qkv_kernel,
            weight.tensor.shape[0],
            weight,
            (stream.weighted, stream.squares, weight.tensor, weight.scale, transformer.cos, transformer.sin,
             positions, cache_rows, q, cache.keys[index], cache.values[index], tokens, rows, start),
            tokens,
            rows,
            _SMALL_BLOCK,
            HEADS=config.heads,
            KV_HEADS=config.kv_heads,
            HEAD_DIM=config.head_dim,
            POSITIONS=cache.scratch + 1,
            **norm_constants(config),
        )  # fmt: skip
        return q

    def add(
        self, layer: nn.Module, activation: Tensor, squares: Tensor | None, norm: RMSNorm, stream: Residual,
        tokens: int, rows: int, config: TransformerConfig, added: bool = True,
    ) -> None:  # fmt: skip
        """squares, config: of the norm in front of the layer, if one is. norm: the one behind."""
        weight = Weight.of(layer)
        size, columns = weight.tensor.shape
        self.product(
            products.add_kernel,
            size,
            weight,
            (activation, squares, weight.tensor, weight.scale, norm.weight, *stream.tensors, tokens),
            tokens,
            rows,
            _SMALL_BLOCK,
            BLOCK_N=_SMALL_BLOCK,
            SIZE=size,
            ADDED=added,
            **norm_constants(config) | {"K": columns},
        )

    def mlp(self, transformer: Transformer, index: int, stream: Residual, tokens: int, rows: int) -> None:
        config, layers = transformer.config, layers_of(transformer)
        mlp = layers[index].mlp
        weight = Weight.of(mlp.gate_up)
        self.product(
            products.gate_up_kernel,
            config.intermediate,
            weight,
            (stream.weighted, stream.squares, weight.tensor, weight.scale, self._gated, tokens),
            tokens,
            rows,
            _LARGE_BLOCK,
            BLOCK_N=_LARGE_BLOCK,
            SIZE=config.intermediate,
            **norm_constants(config),
        )
        weight = Weight.of(mlp.down)
        splits = splits_of(config.hidden, config.intermediate)
        self.product(
            products.down_kernel,
            config.hidden,
            weight,
            (self._gated, weight.tensor, weight.scale, norm_of(transformer, index + 1).weight, *stream.tensors,
             self._partial, self._counters, tokens),
            tokens,
            rows,
            _LARGE_BLOCK,
            splits,
            BLOCK_N=_LARGE_BLOCK,
            K=config.intermediate,
            SIZE=config.hidden,
            SPLITS=splits,
        )  # fmt: skip

    def head(
        self, layer: nn.Module, stream: Residual, logits: Tensor, rows: int, first: int, config: TransformerConfig
    ) -> None:
        """logits: (rows, vocab), written. first: the token that is the first row's."""
        weight = Weight.of(layer)
        self.product(
            products.head_kernel,
            weight.tensor.shape[0],
            weight,
            (stream.weighted, stream.squares, weight.tensor, weight.scale, logits, rows, first),
            rows,
            rows,
            _SMALL_BLOCK,
            BLOCK_N=_SMALL_BLOCK,
            SIZE=weight.tensor.shape[0],
            **norm_constants(config),
        )


def layers_of(transformer: Transformer) -> list[Layer]:
    return list(transformer.layers)  # type: ignore[arg-type]


def norm_of(transformer: Transformer, index: int) -> RMSNorm:
    """The norm that reads the residual stream behind `index` layers."""
    layers = layers_of(transformer)
    return layers[index].attention_norm if index < len(layers) else transformer.norm


def norm_constants(config: TransformerConfig) -> dict[str, Any]:
    """Of a kernel that reads `squares` of a residual stream."""
    sums = triton.next_power_of_2(config.hidden // SQUARED)
    return {"EPS": config.norm_eps, "K": config.hidden, "SUMS": sums, "HALVINGS": sums.bit_length() - 1}
