"""The CSM model: text and audio embeddings, backbone, depth decoder, and the step that generates one audio frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CsmConfig
from .kv_cache import DecodeView, DepthView, KvCache, KvRestore, PromptAttention, RaggedAttention
from .prompt_tokens import CODES, IS_AUDIO, POSITION
from .row_record import RowTable
from .sampling import SamplingInputs, SamplingMode, SamplingState, sample
from .transformer import CacheView, Transformer


@dataclass
class StepState:
    """Static buffers of the frame step, at fixed addresses so that CUDA graphs can be replayed on them."""

    output: Tensor  # int64 (rows, codebooks + 1): `codes` and `audible` in one tensor, for a single copy to the host
    codes: Tensor  # int64 (rows, codebooks): the last frame of each row, the input of the next step
    audible: Tensor  # int64 (rows,): 1 for a frame of audio, 0 for the stop frame
    position: Tensor  # int64 (rows,): the context position that the next step writes
    active: Tensor  # bool (rows,): the rows that this step advances; the others keep their state
    starting: Tensor  # bool (rows,): the row's next input is the end-of-text token, not its last frame
    sampling: SamplingState
    table: RowTable  # the records that `position`, `starting` and `sampling` are views of
    backbone: KvCache
    depth: KvCache


class CsmModel(nn.Module):
    """CSM's weights with two forward passes: `prefill` for packed prompts, `frame_step` for all active rows."""

    offsets: Tensor  # (codebooks,): index of each codebook's first row in the audio embeddings
    depth_inputs: Tensor  # (codebooks - 1, audio_vocab, depth hidden): the projected depth-decoder embeddings

    def __init__(self, config: CsmConfig, end_of_text: int, sampled_vocab: int) -> None:
        """end_of_text: id of the token that ends a text segment. sampled_vocab: only ids below it are sampled, because
        the codec has no codebook entry for the others."""
        super().__init__()
        self.config = config
        self.end_of_text = end_of_text
        self.sampled_vocab = sampled_vocab
        self.ragged_attention: RaggedAttention | None = None  # None: masked attention; set by the loader
        self.prompt_attention: PromptAttention | None = None  # None: row by row; set by the loader
        self.kv_restore: KvRestore | None = None  # None: voice by voice; set by the loader
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
        if self.device.type != "meta":  # else they follow with the weights
            self.build_tables()

    @property
    def device(self) -> torch.device:
        return self.first_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype, and that of all weights except int8 ones."""
        return self.first_head.weight.dtype

    def build_tables(self) -> None:
        """Compute the tables derived from the weights. Call again whenever the weights are loaded or replaced."""
        config, device = self.config, self.device
        offsets = torch.arange(config.codebooks, device=device) * config.audio_vocab
        self.register_buffer("offsets", offsets, persistent=False)
        # The projected embedding of a code is constant, so a table saves one matrix product per codebook and frame.
        embeddings = self.depth_embeddings.weight.detach().view(config.codebooks, config.audio_vocab, -1)
        projected = [F.linear(each, self.depth_projection.weight.detach()) for each in embeddings[:-1]]
        self.register_buffer("depth_inputs", torch.stack(projected), persistent=False)
        for transformer in (self.backbone, self.depth):
            transformer.build_tables()

    def allocate(self, rows: int) -> StepState:
        """Allocate the state of `rows` rows on the weights' device."""
        device, dtype = self.device, self.dtype
        config = self.config
        output = torch.zeros(rows, config.codebooks + 1, dtype=torch.int64, device=device)
        table = RowTable(rows, device)
        return StepState(
            output=output,
            codes=output[:, :-1],
            audible=output[:, -1],
            position=table.field("position"),
            active=torch.zeros(rows, dtype=torch.bool, device=device),
            starting=table.field("starting"),
            sampling=SamplingState.of(table),
            table=table,
            backbone=KvCache(config.backbone, rows, config.positions, device, dtype),
            depth=KvCache(config.depth, rows, config.codebooks, device, dtype),
        )

    def embed_frames(self, codes: Tensor) -> Tensor:
        """(frames, codebooks) -> (frames, hidden), summed over codebooks"""
        embedded: Tensor = self.audio_embeddings(codes + self.offsets).sum(dim=-2)
        return embedded

    def prefill(self, tokens: Tensor, view: CacheView) -> None:
        """Run packed prompt tokens through the backbone into the KV cache.

        tokens: int64 (tokens, columns), see prompt_tokens. view: writes the tokens of this pass.
        """
        self.backbone(self._embed_prompt(tokens)[None], tokens[None, :, POSITION], view)

    def _embed_prompt(self, tokens: Tensor) -> Tensor:
        """(tokens, columns) -> (tokens, hidden)"""
        is_audio = tokens[:, IS_AUDIO, None] > 0
        ids = tokens[:, CODES:]
        text = self.text_embeddings(ids[:, 0].masked_fill(is_audio[:, 0], 0))
        return torch.where(is_audio, self.embed_frames(ids.masked_fill(~is_audio, 0)), text)

    def frame_step(self, state: StepState, rows: int, context: int, mode: SamplingMode) -> None:
        """Generate one frame for every active row among the first `rows`, in place; the result is in `state.output`.

        context: at least the largest position of any active row + 1. Reads no tensor values on the host, and all
        shapes follow from rows, context and mode, so the step can be captured in a CUDA graph.
        """
        active = state.active[:rows]
        hidden = self._backbone_step(state, rows, context, active)
        self.finish_step(state, rows, self._codes(hidden, state, rows, mode))

    def finish_step(self, state: StepState, rows: int, codes: Tensor) -> None:
        """Write a step's codes, (rows, codebooks), and advance the state of active rows."""
        active = state.active[:rows]
        stopped = (codes[:, :-1] == self.config.stop_code).all(dim=-1)
        state.codes[:rows] = torch.where(active[:, None], codes, state.codes[:rows])
        state.audible[:rows] = active & ~stopped
        state.starting[:rows] &= ~active
        state.position[:rows] += active
        state.sampling.frame[:rows] += active

    def _backbone_step(self, state: StepState, rows: int, context: int, active: Tensor) -> Tensor:
        x = self.embed_frames(state.codes[:rows])
        x = torch.where(state.starting[:rows, None], self.text_embeddings.weight[self.end_of_text], x)
        positions = torch.where(active, state.position[:rows], state.backbone.scratch)
        view = DecodeView(state.backbone, positions, context, self.ragged_attention)
        hidden: Tensor = self.backbone(x[:, None], positions[:, None], view)
        return hidden  # (rows, 1, hidden)

    def _codes(self, hidden: Tensor, state: StepState, rows: int, mode: SamplingMode) -> Tensor:
        """Sample the codes of one frame, (rows, codebooks), from the backbone's hidden state (rows, 1, hidden)."""
        config, sampling = self.config, state.sampling.first(rows)
        inputs = SamplingInputs.of(sampling, mode, config.codebooks, self.sampled_vocab) if mode.sampled else None
        code = sample(self.first_head(hidden[:, 0]), sampling, mode, inputs, 0)
        codes = [code]
        # the depth decoder's first pass has two positions: the backbone's hidden state and the first code
        x = torch.cat((self.depth_projection(hidden), self._depth_input(0, code)), dim=1)
        for codebook in range(1, config.codebooks):
            start, end = codebook + 1 - x.shape[1], codebook + 1
            y = self.depth(x, slice(start, end), DepthView(state.depth, rows, start, end, self.depth.groups))
            logits = self.heads[codebook - 1](y[:, -1])
            code = sample(logits, sampling, mode, inputs, codebook)
            codes.append(code)
            if end < config.codebooks:
                x = self._depth_input(codebook, code)
        return torch.stack(codes, dim=1)

    def _depth_input(self, codebook: int, code: Tensor) -> Tensor:
        """Depth-decoder input embedding of a code: (rows,) -> (rows, 1, depth hidden)"""
        return F.embedding(code, self.depth_inputs[codebook])[:, None]
