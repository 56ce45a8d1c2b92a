"""The frame step as a chain of fused kernels: six a backbone layer, five a depth layer, two a codebook beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from ..csm import CsmModel, StepState
from ..persistent.depth import PersistentDepth
from ..ragged_attention_kernel import attend
from ..row_record import ROW_RECORD
from . import frame_kernels
from .layers import FusedLayers, block_of, layers_of, norm_of

_RECORD = ROW_RECORD.itemsize // 8


class FusedStep(FusedLayers):
    """Computes what CsmModel.frame_step does, of any sampling mode, on work buffers of its own.

    A row's result is bit-identical among any number of rows. Reads no tensor values on the host and allocates nothing
    but what `ragged_attention_kernel.attend` does, so it can be captured in a CUDA graph. The weights and the state
    stay where they are. Runs on one stream at a time.
    """

    def __init__(self, model: CsmModel, state: StepState, pdl: bool = False) -> None:
        rows = state.active.shape[0]
        super().__init__(model, (rows, 2 * rows), pdl)  # the depth decoder begins with two tokens a row
        self.state = state
        self.persistent: PersistentDepth | None = None  # computes the depth decoder; set where it is used
        self._fine = model.dtype.itemsize > 2
        self.logits = self.empty(rows, model.sampled_vocab)
        self.codes = self.empty(rows, model.config.codebooks, dtype=torch.int64)
        self._positions = self.empty(rows, dtype=torch.int64)

    def frame(self, rows: int, context: int, logits: list[Tensor] | None = None) -> None:
        """As CsmModel.frame_step. logits: a list to which copies of each codebook's are added, for tests."""
        self._embed(rows)
        for index in range(self.model.config.backbone.layers):
            self._backbone_layer(index, rows, context)
        if self.persistent is None:
            self._depth_codes(rows, logits)
        else:
            self.persistent.run(self.backbone.x, rows, self.codes)
            if logits is not None:
                logits.extend(self.persistent.logits[:, :rows].clone())
        self._finish(rows)

    def compile_ahead(self, rows: Sequence[int], context: int, threads: int) -> None:
        """Compile the kernels for these numbers of rows."""
        with self.compile_only(threads):
            for count in {block_of(each): each for each in rows}.values():
                self._embed(count)
                self._backbone_layer(0, count, context)
                self._first_logits(count)
                for codebook in range(2):
                    self._sample(codebook, count)
                self._depth_layer(0, count, count, 1)
                self.head(self.model.heads[0], self.depth, self.logits, count, 0, self.model.config.depth)
                self._finish(count)

    # ---- parts

    def _finish(self, rows: int) -> None:
        self.launch(
            frame_kernels.finish_kernel,
            (rows,),
            (self.codes, self.state.output, *self._fields(), self.state.sampling.frame),
            dependent=self.persistent is None,
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
        self.launch(
            frame_kernels.embed_kernel,
            (rows,),
            (self.state.output, *self._fields(), model.audio_embeddings.weight,
             model.text_embeddings.weight[model.end_of_text], norm_of(model.backbone, 0).weight,
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
        layer = layers_of(transformer)[index]
        q = self.qkv(transformer, index, self.backbone, cache, rows, rows, positions=self._positions)
        keys, values = (each[index, :rows, :, :context] for each in (cache.keys, cache.values))
        grouped = q.view(rows, config.kv_heads, -1, config.head_dim)
        y = grouped if self.compiling else attend(grouped, keys, values, self._positions[:rows])
        self.add(layer.attention.out, y, None, layer.mlp_norm, self.backbone, rows, rows, config)
        self.mlp(transformer, index, self.backbone, rows, rows)

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
        self.head(model.first_head, hidden, self.logits, rows, 0, config)
        norm = norm_of(model.depth, 0)
        self.add(
            *(model.depth_projection, hidden.weighted, hidden.squares, norm, self.depth, rows, rows, config),
            added=False,
        )

    def _depth_step(self, codebook: int, rows: int) -> None:
        """From the depth decoder's residual stream to the logits of a codebook from 1 on."""
        config = self.model.config.depth
        tokens, start = (2 * rows, 0) if codebook == 1 else (rows, codebook)
        for index in range(config.layers):
            self._depth_layer(index, tokens, rows, start)
        self.head(self.model.heads[codebook - 1], self.depth, self.logits, rows, tokens - rows, config)

    def _depth_layer(self, index: int, tokens: int, rows: int, start: int) -> None:
        transformer, config = self.model.depth, self.model.config.depth
        layer = layers_of(transformer)[index]
        q = self.qkv(transformer, index, self.depth, self.state.depth, tokens, rows, start)
        self._depth_attention(index, q, tokens, rows, start)
        self.add(layer.attention.out, self.attended, None, layer.mlp_norm, self.depth, tokens, rows, config)
        self.mlp(transformer, index, self.depth, tokens, rows)

    def _depth_attention(self, index: int, q: Tensor, tokens: int, rows: int, start: int) -> None:
        config, cache = self.model.config.depth, self.state.depth
        self.launch(
            frame_kernels.depth_attention_kernel,
            (tokens, config.heads),
            (q, cache.keys[index], cache.values[index], self.attended, rows, start),
            SCALE=config.head_dim**-0.5,
            HEADS=config.heads,
            KV_HEADS=config.kv_heads,
            HEAD_DIM=config.head_dim,
            POSITIONS=cache.scratch + 1,
            BLOCK_P=triton.next_power_of_2(cache.scratch),
            num_warps=4,
        )

    def _sample(self, codebook: int, rows: int) -> None:
        model, config, state = self.model, self.model.config, self.state.sampling
        # The first code is the second token of each row, behind the backbone's state.
        token, temperature = (0, state.temperature) if codebook else (rows, state.temperature_first)
        self.launch(
            frame_kernels.sample_kernel,
            (rows,),
            (self.logits, state.seed, state.frame, state.top_k, state.unconditional, state.sampler, temperature,
             state.guidance, self.codes, model.depth_inputs, norm_of(model.depth, 0).weight, *self.depth.tensors,
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
