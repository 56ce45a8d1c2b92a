"""The model and the codec at work on rows: prefill, and one frame for all that speak. Knows rows, not requests."""

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

# Positions below which a pass of prefill is hardly worth its launch.
_MIN_PREFILL_POSITIONS = {"cpu": 16, "cuda": 128}
# A pass of prefill is no longer than this, and the rows share so many lanes for theirs: each lane keeps the memory of
# its longest pass. Longer ones would gain nothing, since these already do more arithmetic than they read.
MAX_PREFILL_POSITIONS = 256  # positions
PREFILL_STREAMS = 4
# Where no graphs are, a step reads up to this many more positions than it must, so that few shapes are ever seen.
_CONTEXT_STEP = 64
# A matrix product of one row goes another way than one of several, and rounds differently. With two rows at the
# least, what a row says does not depend on who else is speaking; the second costs nothing.
MIN_ROWS = 2
_TOP_K_STEPS = (64, 256)  # and then the whole vocabulary


@dataclass(frozen=True)
class SamplingParams:
    """How one row samples. See SamplingState."""

    seed: int
    temperature_first: float
    temperature: float
    top_k: int
    guidance: float = 0.0
    unconditional: int | None = None
    sampler: int | None = None


@dataclass(frozen=True)
class SavedKv:
    """Keys and values of a row's first positions, once `mark` has passed."""

    tensor: Tensor
    mark: StreamEvent

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes


class ModelRunner:
    """Owns the static state. Every method but `encode` is called from the engine's thread.

    buckets: the shapes of a step; by default those that graphs are recorded for on a GPU, and close ones on a CPU.
    """

    def __init__(self, model: CsmModel, codec: MimiCodec, rows: int, buckets: BucketGrid | None = None) -> None:
        self.model, self.codec = model, codec
        self.rows = rows
        self.device = model.device
        self.state = model.allocate(rows)
        codec.allocate(rows)
        self.frames = FramePipeline(model, codec, self.state, buckets or self._buckets())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # no lane waits for what was allocated and zeroed outside of it
        self._settings: list[SamplingParams | None] = [None] * rows
        self._positions = [0] * rows  # the host's copy of state.position
        self._frames_made = [0] * rows  # frames of each row since its `start`
        lanes = [DeviceStream(self.device, StreamPriority.PROMPTS) for _ in range(min(rows, PREFILL_STREAMS))]
        self._streams = [lanes[row % len(lanes)] for row in range(rows)]
        self._prefilled = [COMPLETED] * rows
        self._voice_stream = DeviceStream(self.device, StreamPriority.VOICES)
        self.overlaps = self.device.type == "cuda"  # what was launched is done by another processor than this one
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

    def reset_row(self, row: int, settings: SamplingParams) -> None:
        """A new utterance in this row: how it samples, and a codec that has said nothing."""
        state, sampling = self.state, self.state.sampling
        self._settings[row] = settings
        with self.frames.between_steps():
            state.codes[row] = 0
            sampling.seed[row] = settings.seed
            sampling.frame[row] = 0
            sampling.temperature_first[row] = settings.temperature_first
            sampling.temperature[row] = settings.temperature
            sampling.top_k[row] = settings.top_k
            sampling.guidance[row] = settings.guidance
            sampling.unconditional[row] = row if settings.unconditional is None else settings.unconditional
            sampling.sampler[row] = row if settings.sampler is None else settings.sampler
        self.reset_codec(row)

    def reset_codec(self, row: int) -> None:
        """What the row says next does not follow on from what it said."""
        with self.frames.codec_stream.as_current():
            self.codec.reset(row)

    def prefill(self, row: int, prefill: Prefill, most: int) -> Prefill | None:
        """Put at most `most` positions into the row's context; what is left comes back. Waits for nothing."""
        rest: Prefill | None = prefill
        with self._on_row_stream(row), torch.inference_mode():
            while rest is not None and most > 0:
                now, rest = _split(rest, min(most, MAX_PREFILL_POSITIONS))
                embeddings = torch.cat([self._embed(span) for span in now.spans if len(span)])
                self.model.prefill(self.state, row, now.start, embeddings)
                most -= MAX_PREFILL_POSITIONS
        return rest

    def copy_kv(self, row: int, length: int) -> SavedKv:
        """The keys and values of a row's first positions, to be put into other rows."""
        with self._on_row_stream(row), torch.inference_mode():
            return SavedKv(self.state.backbone.copy_out(row, length), self._streams[row].record_event())

    def restore_kv(self, row: int, saved: SavedKv) -> None:
        with self._on_row_stream(row), torch.inference_mode():
            self._streams[row].wait_event(saved.mark)
            self._streams[row].record_use(saved.tensor)
            self.state.backbone.copy_in(row, saved.tensor)

    def start_row(self, row: int, position: int) -> None:
        """The row's prompt is complete but for the end of its text, which is the next step's input."""
        self._positions[row], self._frames_made[row] = position, 0
        with self.frames.between_steps():
            self.state.position[row] = position
            self.state.starting[row] = True
        self._prefilled[row] = self._streams[row].record_event()

    def is_prefilled(self, row: int, wait: bool) -> bool:
        """Whether the row's lane has come to the end of its prefill. wait: until it has."""
        if wait:
            self._prefilled[row].wait()
        return self._prefilled[row].completed

    def frames_made(self, row: int) -> int:
        """How many frames the row has made since its `start`, one that is on its way among them."""
        return self._frames_made[row]

    def _on_row_stream(self, row: int) -> AbstractContextManager[object]:
        """The row's lane, behind the last step: who had the row before is done with it."""
        self._streams[row].wait_event(self.frames.step_done)
        return self._streams[row].as_current()

    def _embed(self, span: Span) -> Tensor:
        if isinstance(span, list):
            return self.model.embed_text(self._to_device(torch.tensor(span)))
        return self.model.embed_frames(self._to_device(torch.from_numpy(span)))

    def _to_device(self, tensor: Tensor) -> Tensor:
        """To the device, in the current lane. From pinned memory, which PyTorch keeps until it has been read: from any
        other, the host would wait for the whole lane, and with it everybody who speaks."""
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    # ---- beside the rows, from any one thread

    def encode(self, samples: Samples, sample_rate: int) -> Codes:
        """A recording to codes, (frames, codebooks), in a lane of its own. It shares no state with what rows do."""
        with self._voice_stream.as_current(), torch.inference_mode():
            codes: Codes = self.codec.encode(samples, sample_rate).cpu().numpy()
        return codes

    # ---- all rows

    def launch(self, speaking: list[int]) -> Frame:
        """Begin one frame for these rows."""
        context = max(self._positions[row] for row in speaking) + 1
        bucket = self.frames.buckets.bucket_for(max(speaking) + 1, context)
        frame = self.frames.launch(speaking, bucket, self._kind(speaking))
        for row in speaking:
            self._positions[row] += 1
            self._frames_made[row] += 1
        return frame

    def step(self, speaking: list[int]) -> Frame:
        """One frame for these rows, and wait for it."""
        frame = self.launch(speaking)
        assert len(frame.samples) == len(frame.codes)
        return frame

    def _kind(self, speaking: list[int]) -> SamplingMode:
        settings = [found for row in speaking if (found := self._settings[row]) is not None]
        sampled = any(max(each.temperature, each.temperature_first) > 0 for each in settings)
        top_k = max((each.top_k for each in settings), default=1) if sampled else 1
        rounded = next((size for size in _TOP_K_STEPS if top_k <= size), self.model.sampled_vocab)
        return SamplingMode(top_k=rounded, sampled=sampled, guided=any(each.guidance > 0 for each in settings))

    # ---- before the first request

    def compile(self, on: bool = True) -> None:
        """Fuse the small kernels around the matrix products; shapes stay open, so one build serves all rows."""
        for module in self.model.modules():
            if isinstance(module, Compilable):
                if on:
                    module.compile(dynamic=True)
                else:
                    module._compiled_call_impl = None

    def warm_up(self) -> None:
        """Run every kernel once: the first request should not wait for them to load."""
        self.reset_row(0, SamplingParams(seed=0, temperature_first=1.0, temperature=1.0, top_k=1))
        for length in (7, 1):  # a prompt that is read in pieces may end in one of a single position
            self.prefill(0, Prefill(0, [[self.model.end_of_text] * length]), length)
        self.start_row(0, 7)
        self.is_prefilled(0, wait=True)
        for _ in range(2):
            self.step([0])
        self.encode(np.zeros(FRAME_SAMPLES, np.float32), SAMPLE_RATE)

    def preallocate_prefill(self) -> None:
        """Have each lane of prompts take all the memory it will ever need: nothing runs out later for prompts."""
        most, config = min(MAX_PREFILL_POSITIONS, self.model.config.positions), self.model.config
        frames = np.zeros((most - 1, config.codebooks), np.int64)
        longest = Prefill(config.positions - most, [[self.model.end_of_text], frames])
        for row in range(min(self.rows, PREFILL_STREAMS) if self.overlaps else 0):
            self.prefill(row, longest, most)
            self._streams[row].record_event().wait()


def _split(prefill: Prefill, most: int) -> tuple[Prefill, Prefill | None]:
    """The first `most` positions of a prefill, and the rest of it."""
    now: list[Span] = []
    later: list[Span] = []
    room = most
    for span in prefill.spans:
        now.append(span[:room])
        if len(span) > room:
            later.append(span[room:])
        room = max(room - len(span), 0)
    rest = Prefill(prefill.start + most, later) if later else None
    return Prefill(prefill.start, now), rest
