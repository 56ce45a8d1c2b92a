"""A prefill pass as a chain of fused kernels, five a layer: a token has the same bits in any other pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from ..csm import CsmModel
from ..kv_cache import KvCache, PromptAttention
from ..prompt_tokens import CODES, IS_AUDIO, POSITION, ROW
from . import frame_kernels
from .layers import FusedLayers, block_of, layers_of, norm_of


class FusedPrefill(FusedLayers):
    """Computes what CsmModel.prefill does with a PackedView. Can be captured in a CUDA graph."""

    def __init__(
        self, model: CsmModel, cache: KvCache, attention: PromptAttention, max_tokens: int, pdl: bool = False
    ) -> None:
        super().__init__(model, (max_tokens, 0), pdl)
        self._cache, self._attention = cache, attention
        self._rows, self._positions = torch.zeros(2, max_tokens, dtype=torch.int64, device=model.device)

    def run(self, tokens: Tensor) -> None:
        """tokens: int64 (tokens, columns), contiguous, see prompt_tokens; a multiple of the attention's `align`."""
        self._embed(tokens)
        last = self.model.config.backbone.layers - 1
        for index in range(last):
            self._layer(index, len(tokens))
        self._keys(last, len(tokens))  # nobody reads what the last layer adds

    def compile_ahead(self, sizes: Sequence[int], threads: int) -> None:
        """Compile the kernels for passes of these numbers of tokens."""
        columns = CODES + self.model.config.codebooks
        with self.compile_only(threads):
            for count in {block_of(each): each for each in sizes}.values():
                self._embed(torch.zeros(count, columns, dtype=torch.int64, device=self.model.device))
                self._layer(0, count)

    def _embed(self, tokens: Tensor) -> None:
        model, config = self.model, self.model.config
        self.launch(
            frame_kernels.embed_prompt_kernel,
            (len(tokens),),
            (tokens, model.audio_embeddings.weight, model.text_embeddings.weight, norm_of(model.backbone, 0).weight,
             *self.backbone.tensors, self._rows, self._positions),
            dependent=False,  # follows work outside of the chain
            COLUMNS=tokens.shape[1],
            ROW=ROW,
            POSITION=POSITION,
            IS_AUDIO=IS_AUDIO,
            CODES=CODES,
            CODEBOOKS=config.codebooks,
            AUDIO_VOCAB=config.audio_vocab,
            SIZE=config.backbone.hidden,
            BLOCK_H=triton.next_power_of_2(config.backbone.hidden),
            num_warps=4,
        )  # fmt: skip

    def _keys(self, index: int, tokens: int) -> Tensor:
        places = {"positions": self._positions, "cache_rows": self._rows}
        return self.qkv(self.model.backbone, index, self.backbone, self._cache, tokens, tokens, **places)

    def _layer(self, index: int, tokens: int) -> None:
        model, config, cache = self.model, self.model.config.backbone, self._cache
        layer = layers_of(model.backbone)[index]
        q = self._keys(index, tokens).view(tokens, config.kv_heads, -1, config.head_dim)
        keys, values = (each[index, :, :, : cache.scratch] for each in (cache.keys, cache.values))
        y = q if self.compiling else self._attention(q, keys, values, self._rows[:tokens], self._positions[:tokens])
        self.add(layer.attention.out, y, None, layer.mlp_norm, self.backbone, tokens, tokens, config)
        self.mlp(model.backbone, index, self.backbone, tokens, tokens)
