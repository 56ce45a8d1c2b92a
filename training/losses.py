"""CSM's two losses over a batch: the backbone's on codebook 0, the depth decoder's on all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import Batch


@dataclass
class Losses:
    """Cross-entropies in nats, float32, one for each thing that was to be said."""

    first: Tensor  # (targets,): codebook 0
    depth: Tensor  # (codebooks - 1, chosen)


class CsmLosses(nn.Module):
    """transformers' CsmForConditionalGeneration, asked for losses alone.

    Equal to what its own forward gives where both say the same, at a fraction of the cost: the codec does not
    run, heads run on what is learnt alone, and no attention mask is built, for padding comes last.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.codebooks = int(model.config.num_codebooks)
        self.vocab = int(model.config.vocab_size)

    def forward(self, batch: Batch) -> Losses:
        before = self.before(batch)
        codes = batch.frames[batch.targets]  # (targets, codebooks)
        first = F.cross_entropy(self.model.lm_head(before).float(), codes[:, 0], reduction="none")
        return Losses(first, self._depth(before[batch.chosen], codes[batch.chosen]))

    def before(self, batch: Batch) -> Tensor:
        """The backbone's word on each frame that is learnt, (targets, hidden): its last hidden state just before it."""
        hidden = _run(self.model.backbone_model, self._embed(batch))
        return hidden.flatten(0, 1)[batch.frame_places[batch.targets] - 1]

    def depth_logits(self, before: Tensor, told: Tensor) -> Tensor:
        """What follows each of the first codebooks of a frame, (told, frames, vocab): of codebook 1 and on.

        before: (frames, hidden). told: codes, int64 (frames, told). Position 0 is the backbone's word, position n the
        code of codebook n - 1.
        """
        decoder = self.model.depth_decoder
        embedded = decoder.model.embed_tokens(told + self._offsets(told))
        x = torch.cat((before[:, None].to(embedded.dtype), embedded), dim=1)
        x = _run(decoder.model, decoder.model.inputs_embeds_projector(x))[:, 1:]
        # one head for each codebook: (told, frames, hidden) @ (told, hidden, vocab)
        logits: Tensor = torch.matmul(x.transpose(0, 1), decoder.codebooks_head.weight[: told.shape[1]])
        return logits

    def _embed(self, batch: Batch) -> Tensor:
        """(rows, length, hidden): text where text stands, the sum over codebooks where frames do, zeros elsewhere."""
        table = self.model.backbone_model.embed_tokens.embed_audio_tokens.weight
        frames = F.embedding_bag(batch.frames + self._offsets(batch.frames), table, mode="sum")
        spoken = torch.cat((self.model.embed_text_tokens(batch.texts), frames))
        places = torch.cat((batch.text_places, batch.frame_places))
        laid = spoken.new_zeros(batch.rows * batch.length, spoken.shape[1]).index_copy(0, places, spoken)
        return laid.view(batch.rows, batch.length, -1)

    def _depth(self, before: Tensor, codes: Tensor) -> Tensor:
        """before (chosen, hidden), codes (chosen, codebooks) -> losses (codebooks - 1, chosen)."""
        logits = self.depth_logits(before, codes[:, :-1])
        right = codes[:, 1:].T.flatten()
        losses = F.cross_entropy(logits.flatten(0, 1).float(), right, reduction="none")
        return losses.view(self.codebooks - 1, -1)

    def _offsets(self, codes: Tensor) -> Tensor:
        return torch.arange(codes.shape[1], device=codes.device) * self.vocab


def _run(stack: Any, x: Tensor) -> Tensor:
    """The layers of one of CSM's transformers over (rows, length, hidden), causally.

    Its own forward builds a mask of (rows, length, length) in some releases, which costs more than the layers of
    a small model do. Without one the fused attention is causal by itself; only the eager one has to be told.
    """
    length = x.shape[1]
    mask = None
    if stack.config._attn_implementation == "eager":
        mask = torch.full((1, 1, length, length), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
    positions = torch.arange(length, device=x.device)[None]
    rotary = stack.rotary_emb(x, positions)
    for layer in stack.layers:
        x = layer(x, attention_mask=mask, position_embeddings=rotary)
    normed: Tensor = stack.norm(x)
    return normed
