"""The frame step as a chain of fused kernels: six a backbone layer, five a depth layer, two a codebook beside them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from ..config import CsmConfig, TransformerConfig
from ..csm import CsmModel, StepState
from ..int8_linear import Int8Linear
from ..kv_cache import KvCache
from ..ragged_attention_kernel import attend
from ..row_record import ROW_RECORD
from ..transformer import Layer, RMSNorm, Transformer
from . import frame_kernels, products
from .kernel_parts import SQUARED

_RECORD = ROW_RECORD.itemsize // 8
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
class _Weight:
    """Weights of a linear layer as the kernels read them: (outputs, inputs), and int8's scales (outputs,)."""

    tensor: Tensor
    scale: Tensor | None

    @staticmethod
    def of(layer: nn.Module) -> _Weight:
        if isinstance(layer, Int8Linear):
            return _Weight(layer.product.weight, layer.product.scale)
        assert isinstance(layer, nn.Linear)
        return _Weight(layer.weight, None)

    def ahead(self, limit: int) -> int:
        """Bytes of each row to prefetch: a power of two, at most `limit`."""
        row = self.tensor.shape[1] * self.tensor.element_size()
        return 1 << (min(limit, row).bit_length() - 1)


@dataclass(frozen=True)
class _Residual:
    """A residual stream, see kernel_parts."""

    x: Tensor  # (tokens, size)
    weighted: Tensor  # (tokens, size)
    squares: Tensor  # float32 (tokens, size / 16)

    @staticmethod
    def allocate(tokens: int, size: int, device: torch.device, dtype: torch.dtype) -> _Residual:
        x, weighted = torch.zeros(2, tokens, size, device=device, dtype=dtype)
        return _Residual(x, weighted, torch.zeros(tokens, size // SQUARED, device=device))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.weighted, self.squares


class FusedStep:
    """Computes what CsmModel.frame_step does, of any sampling mode, on work buffers of its own.

    A row's result is bit-identical among any number of rows. Reads no tensor values on the host and allocates nothing
    but what `ragged_attention_kernel.attend` does, so it can be captured in a CUDA graph. The weights and the state
    stay where they are. Runs on one stream at a time.
    """

    def __init__(self, model: CsmModel, state: StepState, pdl: bool = False) -> None:
        """pdl: programmatic dependent launch, which needs a GPU of compute capability 9.0 or newer."""
        reason = unsupported(model.config, model.dtype)
        if reason:
            raise ValueError(f"fused kernels cannot compute this model: {reason}")
        self.model, self.state, self.pdl = model, state, pdl
        self._compiling = False
        config, device, dtype = model.config, model.device, model.dtype
        rows = state.active.shape[0]
        self._operands = tl.float32 if _INTERPRETED else getattr(tl, str(dtype).removeprefix("torch."))
        self._fine = dtype.itemsize > 2

        def empty(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, device=device, dtype=kind)

        parts = (config.backbone, rows), (config.depth, 2 * rows)  # the depth decoder begins with two tokens a row
        self.backbone, self.depth = (_Residual.allocate(tokens, part.hidden, device, dtype) for part, tokens in parts)
        width = max(tokens * part.heads * part.head_dim for part, tokens in parts)
        self._q, self._attended = empty(width), empty(width)
        self._gated = empty(max(tokens * part.intermediate for part, tokens in parts))
        self.logits = empty(rows, model.sampled_vocab)
        self.codes = empty(rows, config.codebooks, kind=torch.int64)
        self._positions = empty(rows, kind=torch.int64)
        # A block of tokens may be larger than their number.
        padded = [
            (part, triton.cdiv(tokens, block) * block) for part, tokens in parts for block in (block_of(rows), 16)
        ]
        self._partial = empty(
            max(tokens * part.hidden * splits_of(part.hidden, part.intermediate) for part, tokens in padded),
            kind=torch.float32,
        )
        self._counters = empty(
            max(tokens // 16 * part.hidden // _LARGE_BLOCK for part, tokens in padded), kind=torch.int32
        )

    @property
    def nbytes(self) -> int:
        """Of the work buffers."""
        work = (self._q, self._attended, self._gated, self.logits, self.codes, self._partial)
        return sum(tensor.nbytes for tensor in (*work, *self.backbone.tensors, *self.depth.tensors))

    def frame(self, rows: int, context: int, logits: list[Tensor] | None = None) -> None:
        """As CsmModel.frame_step. logits: a list to which copies of each codebook's are added, for tests."""
        self._embed(rows)
        for index in range(self.model.config.backbone.layers):
            self._backbone_layer(index, rows, context)
        self._depth_codes(rows, logits)
        self._finish(rows)

    def compile_ahead(self, rows: Sequence[int], context: int, threads: int) -> None:
        """Compile the kernels for these numbers of rows in parallel, where Triton's cache does not have them.

        Otherwise each is compiled at its first launch, one after the other. An error is raised by that launch.
        """
        self._compiling = True
        try:
            with ThreadPoolExecutor(threads) as executor, triton.AsyncCompileMode(executor, ignore_errors=True):
                for count in {block_of(each): each for each in rows}.values():
                    self._embed(count)
                    self._backbone_layer(0, count, context)
                    self._first_logits(count)
                    for codebook in range(2):
                        self._sample(codebook, count)
                    self._depth_layer(0, count, count, 1)
                    self._head(self.model.heads[0], self.depth, count, 0, self.model.config.depth)
                    self._finish(count)
        finally:
            self._compiling = False

    # ---- parts

    def _finish(self, rows: int) -> None:
        self._launch(
            frame_kernels.finish_kernel,
            (rows,),
            (self.codes, self.state.output, *self._fields(), self.state.sampling.frame),
            STOP=self.model.config.stop_code,
            CODEBOOKS=self.model.config.codebooks,
            BLOCK_C=triton.next_power_of_2(self.model.config.codebooks),
            RECORD=_RECORD,
            num_warps=1,
        )

    def _fields(self) -> tuple[Tensor, Tensor, Tensor]:
        state = self.state
        return state.active.view(torch.uint8), state.starting.view(torch.uint8), state.position

    def _embed(self, rows: int) -> None:
        model, config = self.model, self.model.config
        # Follows work outside of the chain, so it is not launched as a dependent.
        self._launch(
            frame_kernels.embed_kernel,
            (rows,),
            (self.state.output, *self._fields(), model.audio_embeddings.weight,
             model.text_embeddings.weight[model.end_of_text], _norm(model.backbone, 0).weight,
             *self.backbone.tensors, self._positions),
            dependent=False,
            SCRATCH=self.state.backbone.scratch,
            CODEBOOKS=config.codebooks,
            AUDIO_VOCAB=config.audio_vocab,
            SIZE=config.backbone.hidden,
            BLOCK_H=triton.next_power_of_2(config.backbone.hidden),
            RECORD=_RECORD,
            num_warps=4,
        )  # fmt: skip

    def _backbone_layer(self, index: int, rows: int, context: int) -> None:
        config, transformer, cache = self.model.config.backbone, self.model.backbone, self.state.backbone
        layer = _layers(transformer)[index]
        q = self._qkv(transformer, index, self.backbone, cache, rows, rows, None)
        keys, values = (each[index, :rows, :, :context] for each in (cache.keys, cache.values))
        grouped = q.view(rows, config.kv_heads, -1, config.head_dim)
        y = grouped if self._compiling else attend(grouped, keys, values, self._positions[:rows])
        self._add(layer.attention.out, y, None, layer.mlp_norm, self.backbone, rows, rows, config)
        self._mlp(transformer, index, self.backbone, rows, rows)

    def _depth_codes(self, rows: int, logits: list[Tensor] | None) -> None:
        """Sample the codes of one frame into `codes`, from the backbone's residual stream."""
        self._first_logits(rows)
        for codebook in range(self.model.config.codebooks):
            if codebook:
                self._depth_step(codebook, rows)
            if logits is not None:
                logits.append(self.logits[:rows].clone())
            self._sample(codebook, rows)

    def _first_logits(self, rows: int) -> None:
        """Codebook 0's, and the backbone's state as the depth decoder's first token of each row."""
        model, config, hidden = self.model, self.model.config.backbone, self.backbone
        self._head(model.first_head, hidden, rows, 0, config)
        norm = _norm(model.depth, 0)
        self._add(
            *(model.depth_projection, hidden.weighted, hidden.squares, norm, self.depth, rows, rows, config),
            added=False,
        )

    def _depth_step(self, codebook: int, rows: int) -> None:
        """From the depth decoder's residual stream to the logits of a codebook from 1 on."""
        config = self.model.config.depth
        tokens, start = (2 * rows, 0) if codebook == 1 else (rows, codebook)
        for index in range(config.layers):
            self._depth_layer(index, tokens, rows, start)
        self._head(self.model.heads[codebook - 1], self.depth, rows, tokens - rows, config)

    def _depth_layer(self, index: int, tokens: int, rows: int, start: int) -> None:
        transformer, config = self.model.depth, self.model.config.depth
        layer = _layers(transformer)[index]
        q = self._qkv(transformer, index, self.depth, self.state.depth, tokens, rows, start)
        self._depth_attention(index, q, tokens, rows, start)
        self._add(layer.attention.out, self._attended, None, layer.mlp_norm, self.depth, tokens, rows, config)
        self._mlp(transformer, index, self.depth, tokens, rows)

    # ---- launches

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], dependent: bool = True, **constants: Any
    ) -> None:
        if self.pdl:
            constants["launch_pdl"] = dependent
        if self._compiling:
            kernel.warmup(*arguments, grid=grid, PDL=self.pdl, **constants)
        else:
            kernel[grid](*arguments, PDL=self.pdl, **constants)

    def _product(
        self, kernel: Any, columns: int, weight: _Weight, arguments: tuple[Any, ...], tokens: int, rows: int,
        block: int, splits: int = 1, **constants: Any,
    ) -> None:  # fmt: skip
        """columns: outputs of which each program has `block`."""
        tile, large = block_of(rows), block == _LARGE_BLOCK
        chains = 1 if large else 4
        self._launch(
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

    def _qkv(
        self, transformer: Transformer, index: int, stream: _Residual, cache: KvCache, tokens: int, rows: int,
        start: int | None,
    ) -> Tensor:  # fmt: skip
        """Returns the queries, (tokens, heads, head_dim). start: None in the backbone, whose rows have positions."""
        config, weight = transformer.config, _Weight.of(_layers(transformer)[index].attention.qkv)
        q = self._q[: tokens * config.heads * config.head_dim].view(tokens, config.heads, config.head_dim)
        self._product(
            products.qkv_kernel,
            weight.tensor.shape[0],
            weight,
            (stream.weighted, stream.squares, weight.tensor, weight.scale, transformer.cos, transformer.sin,
             self._positions if start is None else None, q, cache.keys[index], cache.values[index], tokens, rows,
             start or 0),
            tokens,
            rows,
            _SMALL_BLOCK,
            HEADS=config.heads,
            KV_HEADS=config.kv_heads,
            HEAD_DIM=config.head_dim,
            POSITIONS=cache.scratch + 1,
            **_norm_constants(config),
        )  # fmt: skip
        return q

    def _depth_attention(self, index: int, q: Tensor, tokens: int, rows: int, start: int) -> None:
        config, cache = self.model.config.depth, self.state.depth
        self._launch(
            frame_kernels.depth_attention_kernel,
            (tokens, config.heads),
            (q, cache.keys[index], cache.values[index], self._attended, rows, start),
            SCALE=config.head_dim**-0.5,
            HEADS=config.heads,
            KV_HEADS=config.kv_heads,
            HEAD_DIM=config.head_dim,
            POSITIONS=cache.scratch + 1,
            BLOCK_P=triton.next_power_of_2(cache.scratch),
            num_warps=4,
        )

    def _add(
        self, layer: nn.Module, activation: Tensor, squares: Tensor | None, norm: RMSNorm, stream: _Residual,
        tokens: int, rows: int, config: TransformerConfig, added: bool = True,
    ) -> None:  # fmt: skip
        """squares, config: of the norm in front of the layer, if one is. norm: the one behind."""
        weight = _Weight.of(layer)
        size, columns = weight.tensor.shape
        self._product(
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
            **_norm_constants(config) | {"K": columns},
        )

    def _mlp(self, transformer: Transformer, index: int, stream: _Residual, tokens: int, rows: int) -> None:
        config, layers = transformer.config, _layers(transformer)
        mlp = layers[index].mlp
        weight = _Weight.of(mlp.gate_up)
        self._product(
            products.gate_up_kernel,
            config.intermediate,
            weight,
            (stream.weighted, stream.squares, weight.tensor, weight.scale, self._gated, tokens),
            tokens,
            rows,
            _LARGE_BLOCK,
            BLOCK_N=_LARGE_BLOCK,
            SIZE=config.intermediate,
            **_norm_constants(config),
        )
        weight = _Weight.of(mlp.down)
        splits = splits_of(config.hidden, config.intermediate)
        self._product(
            products.down_kernel,
            config.hidden,
            weight,
            (self._gated, weight.tensor, weight.scale, _norm(transformer, index + 1).weight, *stream.tensors,
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

    def _head(self, layer: nn.Module, stream: _Residual, rows: int, first: int, config: TransformerConfig) -> None:
        """first: the token that is the first row's."""
        weight = _Weight.of(layer)
        self._product(
            products.head_kernel,
            weight.tensor.shape[0],
            weight,
            (stream.weighted, stream.squares, weight.tensor, weight.scale, self.logits, rows, first),
            rows,
            rows,
            _SMALL_BLOCK,
            BLOCK_N=_SMALL_BLOCK,
            SIZE=weight.tensor.shape[0],
            **_norm_constants(config),
        )

    def _sample(self, codebook: int, rows: int) -> None:
        model, config, state = self.model, self.model.config, self.state.sampling
        # The first code is the second token of each row, behind the backbone's state.
        token, temperature = (0, state.temperature) if codebook else (rows, state.temperature_first)
        self._launch(
            frame_kernels.sample_kernel,
            (rows,),
            (self.logits, state.seed, state.frame, state.top_k, state.unconditional, state.sampler, temperature,
             state.guidance, self.codes, model.depth_inputs, _norm(model.depth, 0).weight, *self.depth.tensors,
             codebook, token),
            VOCAB=model.sampled_vocab,
            BLOCK_V=triton.next_power_of_2(model.sampled_vocab),
            AUDIO_VOCAB=config.audio_vocab,
            CODEBOOKS=config.codebooks,
            SIZE=config.depth.hidden,
            BLOCK_H=triton.next_power_of_2(config.depth.hidden),
            RECORD=_RECORD,
            FINE=self._fine,
            num_warps=8,
            enable_fp_fusion=False,  # the noise of `sampling.gumbel_noise`, bit for bit
        )  # fmt: skip


def _layers(transformer: Transformer) -> list[Layer]:
    return list(transformer.layers)  # type: ignore[arg-type]


def _norm(transformer: Transformer, index: int) -> RMSNorm:
    """The norm that reads the residual stream behind `index` layers."""
    layers = _layers(transformer)
    return layers[index].attention_norm if index < len(layers) else transformer.norm


def _norm_constants(config: TransformerConfig) -> dict[str, Any]:
    """Of a kernel that reads `squares` of a residual stream."""
    sums = triton.next_power_of_2(config.hidden // SQUARED)
    return {"EPS": config.norm_eps, "K": config.hidden, "SUMS": sums, "HALVINGS": sums.bit_length() - 1}
