"""Runs the model and the codec on rows: prefill for one row, one frame for all active rows. Knows no requests."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .codec.mimi import MimiCodec
from .context import Prefill, Span
from .cuda_streams import COMPLETED, DeviceStream, StreamEvent, StreamPriority
from .frame_pipeline import Frame, FramePipeline
from .model.csm import CsmModel
from .model.graphs import BucketGrid, fine_buckets, graph_buckets
from .model.sampling import SamplingMode
from .model.transformer import Compilable
from .types import FRAME_SAMPLES, SAMPLE_RATE, Codes, Samples

# Below this many positions a prefill pass is hardly worth its launch.
_MIN_PREFILL_POSITIONS = {"cpu": 16, "cuda": 128}
# The length limit of one prefill pass, and the number of streams that the rows' prefills share: each stream keeps the
# memory of its longest pass. Longer passes gain nothing, since passes of this length are already compute-bound.
MAX_PREFILL_POSITIONS = 256  # positions
PREFILL_STREAMS = 4
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


@dataclass(frozen=True)
class SavedKv:
    """Keys and values of a row's first positions; valid once `event` has completed."""

    tensor: Tensor
    event: StreamEvent

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes


class ModelRunner:
    """Owns the static state. Every method but `encode` is called from the engine thread.

    buckets: the shapes of a step; by default those that graphs are captured for on a GPU, and finer ones on a CPU.
    """

    def __init__(self, model: CsmModel, codec: MimiCodec, rows: int, buckets: BucketGrid | None = None) -> None:
        self.model, self.codec = model, codec
        self.rows = rows
        self.device = model.device
        self.state = model.allocate(rows)
        codec.allocate(rows)
        self.frames = FramePipeline(model, codec, self.state, buckets or self._buckets())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the streams do not wait for the allocations above
        self._sampling_params: list[SamplingParams | None] = [None] * rows
        self._positions = [0] * rows  # the host's copy of state.position
        self._frames_made = [0] * rows  # frames of each row since its `start_row`
        streams = [DeviceStream(self.device, StreamPriority.PREFILL) for _ in range(min(rows, PREFILL_STREAMS))]
        self._streams = [streams[row % len(streams)] for row in range(rows)]
        self._prefilled = [COMPLETED] * rows
        self._voice_stream = DeviceStream(self.device, StreamPriority.VOICES)
        self.overlaps = self.device.type == "cuda"  # launched work runs on another processor than this thread
        self.min_prefill_positions = _MIN_PREFILL_POSITIONS[self.device.type]

    def _buckets(self) -> BucketGrid:
        positions = self.model.config.positions
        if self.device.type == "cuda":
            return graph_buckets(MIN_ROWS, self.rows, positions)
        return fine_buckets(MIN_ROWS, self.rows, positions, _CONTEXT_STEP)

    @property
    def nbytes(self) -> int:
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return weights + self.state.backbone.nbytes + self.state.depth.nbytes

    # ---- one row

    def reset_row(self, row: int, params: SamplingParams) -> None:
        """Prepare the row for a new request: its sampling parameters and a reset codec state."""
        state, sampling = self.state, self.state.sampling
        self._sampling_params[row] = params
        with self.frames.between_steps():
            state.codes[row] = 0
            sampling.seed[row] = params.seed
            sampling.frame[row] = 0
            sampling.temperature_first[row] = params.temperature_first
            sampling.temperature[row] = params.temperature
            sampling.top_k[row] = params.top_k
            sampling.guidance[row] = params.guidance
            sampling.unconditional[row] = row if params.unconditional is None else params.unconditional
            sampling.sampler[row] = row if params.sampler is None else params.sampler
        self.reset_codec(row)

    def reset_codec(self, row: int) -> None:
        """Clear the row's codec state: the next frame does not continue the previous audio."""
        with self.frames.codec_stream.as_current():
            self.codec.reset(row)

    def prefill(self, row: int, prefill: Prefill, max_positions: int) -> Prefill | None:
        """Prefill at most `max_positions` positions of the row and return the rest. Does not wait for the device."""
        rest: Prefill | None = prefill
        with self._on_row_stream(row), torch.inference_mode():
            while rest is not None and max_positions > 0:
                now, rest = _split(rest, min(max_positions, MAX_PREFILL_POSITIONS))
                embeddings = torch.cat([self._embed(span) for span in now.spans if len(span)])
                self.model.prefill(self.state, row, now.start, embeddings)
                max_positions -= MAX_PREFILL_POSITIONS
        return rest

    def copy_kv(self, row: int, length: int) -> SavedKv:
        """Copy the keys and values of a row's first positions, to restore them in other rows."""
        with self._on_row_stream(row), torch.inference_mode():
            return SavedKv(self.state.backbone.copy_out(row, length), self._streams[row].record_event())

    def restore_kv(self, row: int, saved: SavedKv) -> None:
        """Put saved keys and values at the start of a row's context."""
        with self._on_row_stream(row), torch.inference_mode():
            self._streams[row].wait_event(saved.event)
            self._streams[row].record_use(saved.tensor)
            self.state.backbone.copy_in(row, saved.tensor)

    def start_row(self, row: int, position: int) -> None:
        """Make the row ready for steps: all is prefilled but the end-of-text token, the next step's input."""
        self._positions[row], self._frames_made[row] = position, 0
        with self.frames.between_steps():
            self.state.position[row] = position
            self.state.starting[row] = True
        self._prefilled[row] = self._streams[row].record_event()

    def is_prefilled(self, row: int, wait: bool) -> bool:
        """Whether the device has completed the row's prefill. wait: block until it has."""
        if wait:
            self._prefilled[row].wait()
        return self._prefilled[row].completed

    def frames_made(self, row: int) -> int:
        """Frames of the row since its `start_row`, one in flight included."""
        return self._frames_made[row]

    def _on_row_stream(self, row: int) -> AbstractContextManager[object]:
        """The row's prefill stream, after the last step: the row's previous owner has completed its work."""
        self._streams[row].wait_event(self.frames.step_done)
        return self._streams[row].as_current()

    def _embed(self, span: Span) -> Tensor:
        if isinstance(span, list):
            return self.model.embed_text(self._to_device(torch.tensor(span)))
        return self.model.embed_frames(self._to_device(torch.from_numpy(span)))

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copy to the device on the current stream, from pinned memory, which PyTorch keeps until it has been read.

        From pageable memory the host would wait for the whole stream, and every active row with it.
        """
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    # ---- voices, from any one thread

    def encode(self, samples: Samples, sample_rate: int) -> Codes:
        """Encode a recording to codes (frames, codebooks), on a stream of its own. Shares no state with the rows."""
        with self._voice_stream.as_current(), torch.inference_mode():
            codes: Codes = self.codec.encode(samples, sample_rate).cpu().numpy()
        return codes

    # ---- all rows

    def launch(self, rows: list[int]) -> Frame:
        """Launch one frame for these rows."""
        context = max(self._positions[row] for row in rows) + 1
        bucket = self.frames.buckets.bucket_for(max(rows) + 1, context)
        frame = self.frames.launch(rows, bucket, self._sampling_mode(rows))
        for row in rows:
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
        for length in (7, 1):  # the last pass of a prefill may have a single position
            self.prefill(0, Prefill(0, [[self.model.end_of_text] * length]), length)
        self.start_row(0, 7)
        self.is_prefilled(0, wait=True)
        for _ in range(2):
            self.step([0])
        self.encode(np.zeros(FRAME_SAMPLES, np.float32), SAMPLE_RATE)

    def preallocate_prefill(self) -> None:
        """Run the longest prefill pass on each prefill stream, so that no prefill allocates memory later."""
        longest, config = min(MAX_PREFILL_POSITIONS, self.model.config.positions), self.model.config
        frames = np.zeros((longest - 1, config.codebooks), np.int64)
        prefill = Prefill(config.positions - longest, [[self.model.end_of_text], frames])
        for row in range(min(self.rows, PREFILL_STREAMS) if self.overlaps else 0):
            self.prefill(row, prefill, longest)
            self._streams[row].record_event().wait()


def _split(prefill: Prefill, length: int) -> tuple[Prefill, Prefill | None]:
    """The first `length` positions of a prefill, and the rest, None if there is none."""
    now: list[Span] = []
    later: list[Span] = []
    left = length
    for span in prefill.spans:
        now.append(span[:left])
        if len(span) > left:
            later.append(span[left:])
        left = max(left - len(span), 0)
    rest = Prefill(prefill.start + length, later) if later else None
    return Prefill(prefill.start, now), rest
