"""Runs the model and the codec on rows: packed prefill, one frame for all active rows. Knows no requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .codec.mimi import MimiCodec
from .context import Prefill
from .cuda_streams import COMPLETED, DeviceStream, StreamPriority
from .frame_pipeline import Frame, FramePipeline
from .model.csm import CsmModel
from .model.graphs import BucketGrid, fine_buckets, graph_buckets
from .model.row_record import ROW_RECORD
from .model.sampling import SamplingMode
from .model.transformer import Compilable
from .prefill_streams import PrefillStreams, SavedKv
from .prompt_packing import PromptPiece
from .types import FRAME_SAMPLES, SAMPLE_RATE, Codes, Samples

# Below this many positions a prefill pass is hardly worth its launch.
_MIN_PREFILL_POSITIONS = {"cpu": 16, "cuda": 128}
# Without graphs, contexts are rounded up to a multiple of this many positions, so that few shapes occur.
_CONTEXT_STEP = 64
# A matrix product of one row takes another code path than one of several, and rounds differently. With at least two
# rows, a row's output does not depend on the number of active rows; the second row costs nothing.
MIN_ROWS = 2
_TOP_K_STEPS = (64, 256)  # then the whole vocabulary


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one row, see SamplingState.

    unconditional, sampler: other rows, for classifier-free guidance; None: the row itself.
    """

    seed: int
    temperature_first: float
    temperature: float
    top_k: int
    guidance: float = 0.0
    unconditional: int | None = None
    sampler: int | None = None


_GREEDY = SamplingParams(seed=0, temperature_first=0.0, temperature=0.0, top_k=1)


class ModelRunner:
    """Owns the static state. Every method but `encode` is called from the engine thread.

    buckets: the shapes of a step; by default those that graphs are captured for on a GPU, and finer ones on a CPU.
    streams: CUDA streams for prompts, see PrefillStreams.
    """

    def __init__(
        self, model: CsmModel, codec: MimiCodec, rows: int, buckets: BucketGrid | None = None, streams: int = 1
    ) -> None:
        self.model, self.codec = model, codec
        self.rows = rows
        self.device = model.device
        self.state = model.allocate(rows)
        codec.allocate(rows)
        self.frames = FramePipeline(model, codec, self.state, buckets or self._buckets())
        self.prefills = PrefillStreams(model, self.state, rows, streams)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the streams do not wait for the allocations above
        self._sampling_params: list[SamplingParams | None] = [None] * rows
        self._positions = [0] * rows  # the host's copy of state.position
        self._frames_made = [0] * rows  # frames of each row since its `start_row`
        self._frames_before = [0] * rows  # frames of each row from its `reset_row` to its `start_row`
        self._stepped = [COMPLETED] * rows  # the last step that advanced the row
        self._starting: dict[int, None] = {}  # rows that the next frame sets up, in order
        self._codec_resets: set[int] = set()  # rows whose codec state the next frame clears
        self._voice_stream = DeviceStream(self.device, StreamPriority.VOICES)
        self.overlaps = self.device.type == "cuda"  # launched work runs on another processor than this thread
        self.position_seconds = 0.0  # of a prefilled position, measured by `preallocate_prefill`
        self.min_prefill_positions = _MIN_PREFILL_POSITIONS[self.device.type]

    def _buckets(self) -> BucketGrid:
        positions = self.model.config.positions
        if self.device.type == "cuda":
            return graph_buckets(MIN_ROWS, self.rows, positions, live=self.model.ragged_attention is not None)
        return fine_buckets(MIN_ROWS, self.rows, positions, _CONTEXT_STEP)

    @property
    def nbytes(self) -> int:
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return weights + self.state.backbone.nbytes + self.state.depth.nbytes

    # ---- some rows: prefill is launched at once, saved voices with it, everything else with the next frame

    def assign_stream(self, rows: Sequence[int]) -> None:
        """Give the rows of a new request a stream for their voice and their prompt."""
        self.prefills.assign(rows)

    def reset_row(self, row: int, params: SamplingParams) -> None:
        """Prepare the row for a new request: its sampling parameters and a reset codec state."""
        self._sampling_params[row] = params
        self._frames_made[row] = self._frames_before[row] = 0
        self.reset_codec(row)

    def reset_codec(self, row: int) -> None:
        """Clear the row's codec state: the next frame does not continue the previous audio."""
        self._codec_resets.add(row)

    def prefill(self, pieces: Sequence[PromptPiece]) -> None:
        """Prefill pieces of rows' prompts, packed, after the restored voices. Does not wait for the device."""
        self.prefills.launch(pieces, self._stepped)

    def copy_kv(self, row: int, length: int) -> SavedKv:
        """Copy the keys and values of a row's first positions, to restore them in other rows."""
        return self.prefills.copy_out(row, length)

    def restore_kv(self, row: int, saved: SavedKv) -> None:
        """Put saved keys and values at the start of a row's context, together with others, by the next `prefill`."""
        self.prefills.restore(row, saved)

    def start_row(self, row: int, position: int) -> None:
        """Make the row ready for steps: all is prefilled but the end-of-text token, the next step's input."""
        self._frames_before[row] += self._frames_made[row]
        self._positions[row], self._frames_made[row] = position, 0
        self._starting[row] = None

    def frames_made(self, row: int) -> int:
        """Frames of the row since its `start_row`, one in flight included."""
        return self._frames_made[row]

    def apply_changes(self) -> None:
        """Launch what `reset_row`, `reset_codec` and `start_row` have asked for since the last frame."""
        if self._starting:
            records = np.array([self._record(row) for row in self._starting], ROW_RECORD)
            self.frames.start_rows(records, self.prefills.prefilled(self._starting))
            self._starting.clear()
        if self._codec_resets:
            self.frames.reset_codec(self._codec_resets)
            self._codec_resets.clear()

    def _record(self, row: int) -> tuple[int | float, ...]:
        """The fields of ROW_RECORD for a row that begins to decode."""
        params = self._sampling_params[row] or _GREEDY
        unconditional, sampler = (row if of is None else of for of in (params.unconditional, params.sampler))
        integers = (row, params.seed, self._frames_before[row], params.top_k, unconditional, sampler)
        floats = (params.temperature_first, params.temperature, params.guidance)
        return (*integers, self._positions[row], *floats, 1)

    # ---- voices, from any one thread

    def encode(self, samples: Samples, sample_rate: int) -> Codes:
        """Encode a recording to codes (frames, codebooks), on a stream of its own. Shares no state with the rows."""
        with self._voice_stream.as_current(), torch.inference_mode():
            codes: Codes = self.codec.encode(samples, sample_rate).cpu().numpy()
        return codes

    # ---- all rows

    def launch(self, rows: list[int]) -> Frame:
        """Launch one frame for these rows."""
        self.apply_changes()
        context = max(self._positions[row] for row in rows) + 1
        bucket = self.frames.recorded_buckets.bucket_for(max(rows) + 1, context)
        frame = self.frames.launch(rows, bucket, self._sampling_mode(rows))
        for row in rows:
            self._stepped[row] = self.frames.step_done
            self._positions[row] += 1
            self._frames_made[row] += 1
        return frame

    def step(self, rows: list[int]) -> Frame:
        """Launch one frame for these rows and wait for it."""
        frame = self.launch(rows)
        assert len(frame.samples) == len(frame.codes)
        return frame

    def _sampling_mode(self, rows: list[int]) -> SamplingMode:
        """The cheapest mode that serves all rows; top_k is rounded up so that few modes occur."""
        params = [found for row in rows if (found := self._sampling_params[row]) is not None]
        sampled = any(max(each.temperature, each.temperature_first) > 0 for each in params)
        top_k = max((each.top_k for each in params), default=1) if sampled else 1
        rounded = next((size for size in _TOP_K_STEPS if top_k <= size), self.model.sampled_vocab)
        return SamplingMode(top_k=rounded, sampled=sampled, guided=any(each.guidance > 0 for each in params))

    # ---- before the first request

    def compile(self, on: bool = True) -> None:
        """Compile the small operations around the matrix products, with dynamic shapes: one build for all rows."""
        for module in self.model.modules():
            if isinstance(module, Compilable):
                if on:
                    module.compile(dynamic=True)
                else:
                    module._compiled_call_impl = None

    def warm_up(self) -> None:
        """Run every kernel once, so that the first request does not wait for kernels to load."""
        self.reset_row(0, SamplingParams(seed=0, temperature_first=1.0, temperature=1.0, top_k=1))
        for length in (7, 1):  # a pass without a graph may have a single token
            self.prefill([PromptPiece(0, Prefill(0, [[self.model.end_of_text] * length]))])
        self.start_row(0, 7)
        for _ in range(2):
            self.step([0])
        self.encode(np.zeros(FRAME_SAMPLES, np.float32), SAMPLE_RATE)

    def preallocate_prefill(self) -> None:
        """Run the largest prefill pass on each stream, so that no prefill allocates memory later, and measure it.

        Where work does not overlap with this thread, the first prompts are measured instead.
        """
        if self.overlaps:
            longest, config = min(self.prefills.max_tokens, self.model.config.positions), self.model.config
            frames = np.zeros((longest - 1, config.codebooks), np.int64)
            piece = PromptPiece(0, Prefill(config.positions - longest, [[self.model.end_of_text], frames]))
            for pipeline in (*self.prefills.pipelines, self.prefills.pipelines[0]):  # the first time each allocates
                started = time.perf_counter()
                pipeline.launch([piece], ()).wait()
                self.position_seconds = (time.perf_counter() - started) / longest
