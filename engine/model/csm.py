"""CSM: text and audio embeddings, the backbone, the depth decoder. What one frame is, in one screen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CsmConfig
from .kv_cache import DecodeView, DepthView, KvCache, PrefillView, RaggedAttention
from .sampling import SamplingInputs, SamplingMode, SamplingState, sample
from .transformer import Transformer


@dataclass
class StepState:
    """Everything a frame step reads and writes, at fixed addresses."""

    output: Tensor  # int64 (rows, codebooks + 1): `codes` and `audible` in one piece, to be copied at once
    codes: Tensor  # int64 (rows, codebooks): the last frame of each row, fed back by the next step
    audible: Tensor  # int64 (rows,): 1 if that frame is to be heard, 0 if it says that the speech has ended
    position: Tensor  # int64 (rows,): where the next step writes
    active: Tensor  # bool (rows,): the rows that this step is for; the others are held
    starting: Tensor  # bool (rows,): the row's next input is the end of its text, not its last frame
    sampling: SamplingState
    backbone: KvCache
    depth: KvCache


class CsmModel(nn.Module):
    """The weights of CSM and the two passes over them: `prefill` for one row, `frame_step` for all that speak."""

    offsets: Tensor  # (codebooks,): where each codebook begins in the audio embeddings
    depth_inputs: Tensor  # (codebooks - 1, audio_vocab, depth hidden): the depth decoder's embeddings, projected

    def __init__(self, config: CsmConfig, end_of_text: int, sampled_vocab: int) -> None:
        """end_of_text: the token that ends a text. sampled_vocab: ids from here on are never sampled,
        since the codec has no entry for them."""
        super().__init__()
        self.config = config
        self.end_of_text = end_of_text
        self.sampled_vocab = sampled_vocab
        self.ragged_attention: RaggedAttention | None = None  # the plain way, unless somebody knows that it works here
        self.text_embeddings = nn.Embedding(config.text_vocab, config.backbone.hidden)
        self.audio_embeddings = nn.Embedding(config.codebooks * config.audio_vocab, config.backbone.hidden)
        self.depth_embeddings = (
            self.audio_embeddings
            if config.tied_embeddings
            else nn.Embedding(config.codebooks * config.audio_vocab, config.backbone.hidden)
        )
        self.backbone = Transformer(config.backbone, config.positions + 1)
        self.first_head = nn.Linear(config.backbone.hidden, sampled_vocab, bias=False)
        self.depth_projection = nn.Linear(config.backbone.hidden, config.depth.hidden, bias=False)
        self.depth = Transformer(config.depth, config.codebooks)
        heads = (nn.Linear(config.depth.hidden, sampled_vocab, bias=False) for _ in range(config.codebooks - 1))
        self.heads = nn.ModuleList(heads)
        self.build_tables()

    @property
    def device(self) -> torch.device:
        return self.first_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in, and what weights are in but for those that are in 8 bits."""
        return self.first_head.weight.dtype

    def build_tables(self) -> None:
        """Make the tables that follow from the weights; once more after a model got them."""
        config, device = self.config, self.device
        offsets = torch.arange(config.codebooks, device=device) * config.audio_vocab
        self.register_buffer("offsets", offsets, persistent=False)
        # A code's embedding is projected the same way in every frame: looked up, it is one product a codebook less.
        embeddings = self.depth_embeddings.weight.detach().view(config.codebooks, config.audio_vocab, -1)
        projected = [F.linear(each, self.depth_projection.weight.detach()) for each in embeddings[:-1]]
        self.register_buffer("depth_inputs", torch.stack(projected), persistent=False)
        for transformer in (self.backbone, self.depth):
            transformer.build_tables()

    def allocate(self, rows: int) -> StepState:
        """State for `rows` rows on the weights' device."""
        device, dtype = self.device, self.dtype
        config = self.config
        flags = torch.zeros(rows, dtype=torch.bool, device=device)
        output = torch.zeros(rows, config.codebooks + 1, dtype=torch.int64, device=device)
        return StepState(
            output=output,
            codes=output[:, :-1],
            audible=output[:, -1],
            position=torch.zeros(rows, dtype=torch.int64, device=device),
            active=flags.clone(),
            starting=flags.clone(),
            sampling=SamplingState.allocate(rows, device),
            backbone=KvCache(config.backbone, rows, config.positions, device, dtype),
            depth=KvCache(config.depth, rows, config.codebooks, device, dtype),
        )

    def embed_text(self, tokens: Tensor) -> Tensor:
        """(length,) -> (length, hidden)"""
        embedded: Tensor = self.text_embeddings(tokens)
        return embedded

    def embed_frames(self, codes: Tensor) -> Tensor:
        """(frames, codebooks) -> (frames, hidden): the sum over codebooks."""
        embedded: Tensor = self.audio_embeddings(codes + self.offsets).sum(dim=-2)
        return embedded

    def prefill(self, state: StepState, row: int, start: int, embeddings: Tensor) -> None:
        """Put embeddings (length, hidden) into a row's context at positions start, start + 1, ..."""
        length = embeddings.shape[0]
        view = PrefillView(state.backbone, row, start, length, self.backbone.groups)
        self.backbone(embeddings[None], slice(start, start + length), view)

    def frame_step(self, state: StepState, rows: int, context: int, mode: SamplingMode) -> None:
        """One frame for every speaking row among the first `rows`, in place: `output` holds it.

        context: at least the largest position of any speaking row + 1. Nothing here asks for a tensor's values, and
        all shapes follow from rows, context and kind, so that a graph can hold it.
        """
        speaking = state.active[:rows]
        hidden = self._backbone_step(state, rows, context, speaking)
        codes = self._codes(hidden, state, rows, mode)
        stopped = (codes[:, :-1] == self.config.stop_code).all(dim=-1)
        state.codes[:rows] = torch.where(speaking[:, None], codes, state.codes[:rows])
        state.audible[:rows] = speaking & ~stopped
        state.starting[:rows] &= ~speaking
        state.position[:rows] += speaking
        state.sampling.frame[:rows] += speaking

    def _backbone_step(self, state: StepState, rows: int, context: int, speaking: Tensor) -> Tensor:
        x = self.embed_frames(state.codes[:rows])
        x = torch.where(state.starting[:rows, None], self.text_embeddings.weight[self.end_of_text], x)
        positions = torch.where(speaking, state.position[:rows], state.backbone.scratch)
        view = DecodeView(state.backbone, positions, context, self.ragged_attention)
        hidden: Tensor = self.backbone(x[:, None], positions[:, None], view)
        return hidden  # (rows, 1, hidden)

    def _codes(self, hidden: Tensor, state: StepState, rows: int, mode: SamplingMode) -> Tensor:
        """The codes of one frame, (rows, codebooks), from the backbone's hidden state (rows, 1, hidden)."""
        config, sampling = self.config, state.sampling.first(rows)
        draws = SamplingInputs.of(sampling, mode, config.codebooks, self.sampled_vocab) if mode.sampled else None
        code = sample(self.first_head(hidden[:, 0]), sampling, mode, draws, 0)
        codes = [code]
        # the depth decoder begins with two positions: the backbone's word, and the first code
        x = torch.cat((self.depth_projection(hidden), self._depth_input(0, code)), dim=1)
        for codebook in range(1, config.codebooks):
            start, end = codebook + 1 - x.shape[1], codebook + 1
            y = self.depth(x, slice(start, end), DepthView(state.depth, rows, start, end, self.depth.groups))
            logits = self.heads[codebook - 1](y[:, -1])
            code = sample(logits, sampling, mode, draws, codebook)
            codes.append(code)
            if end < config.codebooks:
                x = self._depth_input(codebook, code)
        return torch.stack(codes, dim=1)

    def _depth_input(self, codebook: int, code: Tensor) -> Tensor:
        """What the depth decoder reads for a code: (rows,) -> (rows, 1, depth hidden)"""
        return F.embedding(code, self.depth_inputs[codebook])[:, None]
