"""CSM: text and audio embeddings, the backbone, the depth decoder. What one frame is, in one screen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CsmConfig
from .kv_cache import DepthView, KvCache, SpanView, StepView
from .sampling import SamplingState, StepKind, gumbel_noise, sample
from .transformer import Transformer


@dataclass
class StepState:
    """Everything a frame step reads and writes, at fixed addresses."""

    codes: Tensor  # int64 (rows, codebooks): the last frame of each row, fed back by the next step
    position: Tensor  # int64 (rows,): where the next step writes
    speaking: Tensor  # bool (rows,): the rows that this step is for; the others are held
    starting: Tensor  # bool (rows,): the row's next input is the end of its text, not its last frame
    stopped: Tensor  # bool (rows,): the frame just made says that the speech has ended
    sampling: SamplingState
    backbone: KvCache
    depth: KvCache


class CsmModel(nn.Module):
    """The weights of CSM and the two passes over them: `prefill` for one row, `frame_step` for all that speak."""

    offsets: Tensor  # (codebooks,): where each codebook begins in the audio embeddings

    def __init__(self, config: CsmConfig, end_of_text: int, sampled_vocab: int) -> None:
        """end_of_text: the token that ends a text. sampled_vocab: ids from here on are never sampled,
        since the codec has no entry for them."""
        super().__init__()
        self.config = config
        self.end_of_text = end_of_text
        self.sampled_vocab = sampled_vocab
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
        self.heads = nn.Parameter(torch.empty(config.codebooks - 1, sampled_vocab, config.depth.hidden))
        self.tabulate(torch.get_default_device())

    def tabulate(self, device: torch.device) -> None:
        """Make the tables that are no weights; once more after a model built on the meta device got its weights."""
        offsets = torch.arange(self.config.codebooks, device=device) * self.config.audio_vocab
        self.register_buffer("offsets", offsets, persistent=False)
        for transformer in (self.backbone, self.depth):
            if transformer.cos.device != device:
                transformer.tabulate(device)

    def allocate(self, rows: int) -> StepState:
        """State for `rows` rows on the weights' device."""
        device, dtype = self.heads.device, self.heads.dtype
        config = self.config
        flags = torch.zeros(rows, dtype=torch.bool, device=device)
        return StepState(
            codes=torch.zeros(rows, config.codebooks, dtype=torch.int64, device=device),
            position=torch.zeros(rows, dtype=torch.int64, device=device),
            speaking=flags.clone(),
            starting=flags.clone(),
            stopped=flags.clone(),
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
        positions = torch.arange(start, start + length, device=embeddings.device)
        view = SpanView(state.backbone, row, start, length, self.backbone.groups)
        self.backbone(embeddings[None], positions, view)

    def frame_step(self, state: StepState, rows: int, context: int, kind: StepKind) -> None:
        """One frame for every speaking row among the first `rows`: in place, `codes` and `stopped` hold it.

        context: at least the largest position of any speaking row + 1.
        """
        speaking = state.speaking[:rows]
        hidden = self._backbone_step(state, rows, context, speaking)
        codes = self._codes(hidden, state, rows, kind)
        stopped = speaking & (codes[:, :-1] == self.config.stop_code).all(dim=-1)
        state.codes[:rows] = torch.where(speaking[:, None], codes, state.codes[:rows])
        state.stopped[:rows] = stopped
        state.starting[:rows] &= ~speaking
        state.position[:rows] += speaking
        state.sampling.frame[:rows] += speaking

    def _backbone_step(self, state: StepState, rows: int, context: int, speaking: Tensor) -> Tensor:
        x = self.embed_frames(state.codes[:rows])
        x = torch.where(state.starting[:rows, None], self.text_embeddings.weight[self.end_of_text], x)
        positions = torch.where(speaking, state.position[:rows], state.backbone.scratch)
        hidden: Tensor = self.backbone(x[:, None], positions[:, None], StepView(state.backbone, positions, context))
        return hidden  # (rows, 1, hidden)

    def _codes(self, hidden: Tensor, state: StepState, rows: int, kind: StepKind) -> Tensor:
        """The codes of one frame, (rows, codebooks), from the backbone's hidden state (rows, 1, hidden)."""
        config, sampling = self.config, state.sampling.first(rows)
        noise: tuple[Tensor | None, ...] = (None,) * config.codebooks
        if kind.sampled:
            noise = gumbel_noise(sampling.seed, sampling.frame, config.codebooks, self.sampled_vocab).unbind(1)
        logits = self.first_head(hidden[:, 0])
        code = sample(logits, sampling, kind, sampling.temperature_first, noise[0])
        codes = [code]
        x = torch.cat((hidden, self._embed_code(0, code)), dim=1)  # the depth decoder begins with two positions
        for codebook in range(1, config.codebooks):
            length = x.shape[1]
            start = codebook + 1 - length
            positions = torch.arange(start, start + length, device=x.device)
            view = DepthView(state.depth, rows, start, length, self.depth.groups)
            y = self.depth(self.depth_projection(x), positions, view)
            logits = F.linear(y[:, -1], self.heads[codebook - 1])
            code = sample(logits, sampling, kind, sampling.temperature, noise[codebook])
            codes.append(code)
            x = self._embed_code(codebook, code)
        return torch.stack(codes, dim=1)

    def _embed_code(self, codebook: int, code: Tensor) -> Tensor:
        """(rows,) -> (rows, 1, hidden)"""
        embedded: Tensor = self.depth_embeddings(code[:, None] + codebook * self.config.audio_vocab)
        return embedded
