"""One prefill pass for the packed prompts of several rows: a CUDA graph for each of a few sizes, beside the frames."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .context import Prefill
from .cuda_streams import DeviceStream, StreamEvent, upload
from .model.csm import CsmModel, StepState
from .model.fused_prefill import FusedPrefill
from .model.graphs import Bucket, CapturedGraphs, GraphCapturer
from .model.kv_cache import PackedView, SegmentView
from .model.prompt_tokens import CODES, IS_AUDIO, POSITION, Segment
from .model.transformer import CacheView
from .prompt_packing import CUT, PackedPrompts, PromptPiece, pack

log = logging.getLogger(__name__)

# The most tokens of one pass. More gain nothing: passes of this size are bound by arithmetic.
MAX_PASS_TOKENS = {"cpu": 256, "cuda": 1024}
PASS_SIZES = (32, 64, 128, 256, 512, 1024)  # tokens of the passes that graphs are captured for


class PrefillPipeline:
    """Launches prefill passes on one stream. Owns their static input and their CUDA graphs."""

    def __init__(self, model: CsmModel, state: StepState, stream: DeviceStream) -> None:
        self.stream = stream
        self.graphs = CapturedGraphs()
        self._recorded_sizes: tuple[int, ...] = ()  # while graphs are being recorded: those that are there
        self.fused: FusedPrefill | None = None  # computes the passes; set by the loader, before capture
        self.max_tokens = MAX_PASS_TOKENS[model.device.type]
        self._model, self._state = model, state
        columns = CODES + model.config.codebooks
        self._tokens = torch.zeros(
            self.max_tokens, columns, dtype=torch.int64, device=model.device
        )  # of captured passes
        self._launched: deque[tuple[StreamEvent, int]] = deque()  # passes that may be running, and their tokens

    @property
    def tokens_in_flight(self) -> int:
        """Tokens that were launched and that the device has not completed. Does not wait."""
        while self._launched and self._launched[0][0].completed:
            self._launched.popleft()
        return sum(tokens for _, tokens in self._launched)

    def launch(
        self,
        pieces: Iterable[PromptPiece],
        after: Iterable[StreamEvent],
        restored: Sequence[tuple[int, Tensor]] = (),
    ) -> StreamEvent:
        """Launch the passes that prefill these pieces, in order, and return their end without waiting for it.

        after: events that have to complete first. restored: rows and the saved keys and values that come before.
        """
        tokens = 0
        with self.stream.as_current(), torch.inference_mode():
            for event in after:
                self.stream.wait_event(event)
            if restored:
                for _, tensor in restored:
                    self.stream.record_use(tensor)  # it may have been allocated, and be evicted, on another stream
                self._state.backbone.restore(restored, self._model.kv_restore)
            for packed in self._pack(pieces):
                self._run(packed)
                tokens += len(packed.tokens)
        done = self.stream.record_event()
        self._launched.append((done, tokens))
        return done

    def _pack(self, pieces: Iterable[PromptPiece]) -> Iterable[PackedPrompts]:
        attention, cache = self._model.prompt_attention, self._state.backbone
        align = 1 if attention is None else attention.align
        return pack(pieces, self._model.config.codebooks, self.max_tokens, cache.scratch, align)

    def _run(self, packed: PackedPrompts) -> None:
        sizes = self._recorded_sizes or PASS_SIZES
        bucket = Bucket(next((size for size in sizes if size >= len(packed.tokens)), 0))
        if bucket in self.graphs:
            upload(packed.padded(bucket.rows, self._state.backbone.scratch), self._tokens[: bucket.rows])
            self.graphs.replay(bucket)
        else:
            tokens = torch.empty(packed.tokens.shape, dtype=torch.int64, device=self._model.device)
            upload(packed.tokens, tokens)
            self._eager_pass(tokens, packed.segments)

    def _eager_pass(self, tokens: Tensor, segments: tuple[Segment, ...]) -> None:
        if self.fused is not None:
            self.fused.run(tokens)
            return
        cache, attention = self._state.backbone, self._model.prompt_attention
        view: CacheView
        if attention is None:
            view = SegmentView(cache, segments, self._model.backbone.groups, CUT)
        else:
            view = PackedView(cache, tokens, attention)
        self._model.prefill(tokens, view)

    # ---- CUDA graphs

    @property
    def graph_sizes(self) -> list[int]:
        """Tokens of the passes that graphs are recorded for, descending; none without the attention kernel."""
        if self._model.prompt_attention is None:
            return []
        return [size for size in reversed(PASS_SIZES) if size <= self.max_tokens]

    def record_graphs(self, capturer: GraphCapturer) -> Iterator[None]:
        """Record a pass of every size, the largest first, and compare each replay with the eager pass.

        Yields after each graph. Between two of them passes may be launched, which use the graphs that are there; an
        iteration goes on while no row is in use. If a replay differs, or recording fails, all passes run eagerly and a
        warning is logged.
        """
        for size in self.graph_sizes:
            try:
                equal = self._record(capturer, size)
            except Exception as error:  # a driver or an operator that cannot be captured; eager passes are equal
                log.warning("CUDA graph capture failed, so prompts are prefilled eagerly: %r", error)
                self._clear_graphs()
                return
            if not equal:
                log.warning("a captured prefill of %d tokens differs from the eager one: all run eagerly", size)
                self._clear_graphs()
                return
            if Bucket(size) in self.graphs:
                self._recorded_sizes = (size, *self._recorded_sizes)
            yield
        self._recorded_sizes = ()  # all
        if missing := self.graphs.missing:
            sizes_left = ", ".join(str(each.rows) for each in missing)
            log.warning("memory did not suffice for the CUDA graphs of %s prompt tokens: use fewer slots", sizes_left)

    def _record(self, capturer: GraphCapturer, size: int) -> bool:
        """Record a pass of padding. Returns whether its replay equals the eager pass; True if memory is short."""
        with torch.inference_mode(), self.stream.as_current():
            self._tokens.zero_()
            self._tokens[:, POSITION] = self._state.backbone.scratch
            self.graphs.capture(capturer, [Bucket(size)], self._captured_pass)
            equal = Bucket(size) not in self.graphs or self._replays_equally(size)
            self.stream.record_event().wait()
        return equal

    def _clear_graphs(self) -> None:
        self._recorded_sizes = ()
        self.graphs.clear()

    def _captured_pass(self, bucket: Bucket) -> None:
        self._eager_pass(self._tokens[: bucket.rows], ())

    def _replays_equally(self, size: int) -> bool:
        """Whether a graph writes what an eager pass writes: text and audio tokens of two rows, and padding."""
        cache = self._state.backbone
        length = min(size // 2 - 4, cache.scratch)
        token = np.arange(2 * length)[:, None]
        codes = (token * 7 + np.arange(self._model.config.codebooks)) % self._model.sampled_vocab
        pieces = [PromptPiece(row, Prefill(0, [codes[row * length : (row + 1) * length]])) for row in (0, 1)]
        (packed,) = pack(pieces, codes.shape[1], size, cache.scratch, size // 2)
        upload(packed.padded(size, cache.scratch), self._tokens[:size])
        self._tokens[: length // 2, IS_AUDIO] = 0
        written = []
        for run in (self._captured_pass, self.graphs.replay):
            run(Bucket(size))
            for tensor in (cache.keys, cache.values):
                written.append(tensor[:, :2, :, :length].clone())
                tensor[:, :2].zero_()
        return torch.equal(written[0], written[2]) and torch.equal(written[1], written[3])
