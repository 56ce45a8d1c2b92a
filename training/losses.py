"""CSM's training losses over a batch: the backbone's on codebook 0 and the depth decoder's on the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import Batch


@dataclass
class Losses:
    """Cross-entropies in nats, float32, unreduced."""

    first: Tensor  # (targets,): codebook 0
    depth: Tensor  # (codebooks - 1, depth_targets)


class CsmLosses(nn.Module):
    """Computes the losses of transformers' CsmForConditionalGeneration under teacher forcing.

    Equal to the model's own forward, at a fraction of the cost: the codec does not run, output heads run on positions
    with loss only, and no attention mask is built, since padding comes last.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.codebooks = int(model.config.num_codebooks)
        self.vocab = int(model.config.vocab_size)

    def forward(self, batch: Batch) -> Losses:
        hidden = self.backbone_hidden(batch)
        codes = batch.frames[batch.targets]  # (targets, codebooks)
        first = F.cross_entropy(self.model.lm_head(hidden).float(), codes[:, 0], reduction="none")
        return Losses(first, self._depth(hidden[batch.depth_targets], codes[batch.depth_targets]))

    def backbone_hidden(self, batch: Batch) -> Tensor:
        """The backbone's last hidden state before each target frame, (targets, hidden)."""
        hidden = _run(self.model.backbone_model, self._embed(batch))
        return hidden.flatten(0, 1)[batch.frame_indices[batch.targets] - 1]

    def depth_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits of codebooks 1 to n given the first n codes of each frame, (n, frames, vocab).

        hidden: (frames, hidden), the depth decoder's input at position 0. codes: int64 (frames, n); the code of
        codebook i - 1 is its input at position i.
        """
        decoder = self.model.depth_decoder
        embedded = decoder.model.embed_tokens(codes + self._offsets(codes))
        x = torch.cat((hidden[:, None].to(embedded.dtype), embedded), dim=1)
        x = _run(decoder.model, decoder.model.inputs_embeds_projector(x))[:, 1:]
        # one head per codebook: (n, frames, hidden) @ (n, hidden, vocab)
        logits: Tensor = torch.matmul(x.transpose(0, 1), decoder.codebooks_head.weight[: codes.shape[1]])
        return logits

    def _embed(self, batch: Batch) -> Tensor:
        """Input embeddings (rows, length, hidden): text tokens, frames summed over codebooks, zeros at padding."""
        table = self.model.backbone_model.embed_tokens.embed_audio_tokens.weight
        frames = F.embedding_bag(batch.frames + self._offsets(batch.frames), table, mode="sum")
        values = torch.cat((self.model.embed_text_tokens(batch.text_tokens), frames))
        indices = torch.cat((batch.text_indices, batch.frame_indices))
        embeddings = values.new_zeros(batch.rows * batch.length, values.shape[1]).index_copy(0, indices, values)
        return embeddings.view(batch.rows, batch.length, -1)

    def _depth(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (depth_targets, hidden), codes (depth_targets, codebooks) -> losses (codebooks - 1, depth_targets)."""
        logits = self.depth_logits(hidden, codes[:, :-1])
        labels = codes[:, 1:].T.flatten()
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels, reduction="none")
        return losses.view(self.codebooks - 1, -1)

    def _offsets(self, codes: Tensor) -> Tensor:
        return torch.arange(codes.shape[1], device=codes.device) * self.vocab


def _run(transformer: Any, x: Tensor) -> Tensor:
    """Run one of CSM's transformers over (rows, length, hidden) with causal attention.

    In some releases its own forward builds a (rows, length, length) mask, which costs more than the layers of a small
    model. Fused attention without a mask is causal by default; only eager attention needs one.
    """
    length = x.shape[1]
    mask = None
    if transformer.config._attn_implementation == "eager":
        mask = torch.full((1, 1, length, length), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
    positions = torch.arange(length, device=x.device)[None]
    rotary = transformer.rotary_emb(x, positions)
    for layer in transformer.layers:
        x = layer(x, attention_mask=mask, position_embeddings=rotary)
    normed: Tensor = transformer.norm(x)
    return normed
