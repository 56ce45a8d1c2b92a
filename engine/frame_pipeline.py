"""One frame for all that speak: the model's step, and behind it the codec's, beside the next step of the model."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codec.mimi import MimiCodec
from .cuda_streams import COMPLETED, DeviceStream, StreamEvent, StreamPriority
from .model.csm import CsmModel, StepState
from .model.graphs import Bucket, BucketGrid, CapturedGraphs, GraphCapturer
from .model.sampling import SamplingMode
from .types import FRAME_SAMPLES, Codes, Samples

log = logging.getLogger(__name__)

# What graphs of every bucket are recorded for. Greedy rows get from it what a greedy step gives them.
CAPTURED_MODE = SamplingMode(top_k=64, sampled=True, guided=False)


class Frame:
    """One step's outcome for its first rows, on the host; only rows that spoke mean anything.

    Reading waits until it is there: the codes as soon as the model is done, the samples when the codec is. Read them
    before the next but one is launched, which goes to the same place.
    """

    def __init__(self, outcome: Tensor, samples: Tensor, made: StreamEvent, sounded: StreamEvent) -> None:
        self._outcome, self._samples = outcome, samples
        self._made, self._sounded = made, sounded

    @cached_property
    def _read(self) -> np.ndarray[Any, Any]:
        self._made.wait()
        return self._outcome.numpy().copy()

    @property
    def codes(self) -> Codes:
        """(rows, codebooks)"""
        codes: Codes = self._read[:, :-1]
        return codes

    @cached_property
    def stopped(self) -> np.ndarray[Any, Any]:
        """bool (rows,): the frame says that the speech has ended, and is none itself."""
        stopped: np.ndarray[Any, Any] = self._read[:, -1] == 0
        return stopped

    @cached_property
    def samples(self) -> Samples:
        """(rows, 1920)"""
        self._sounded.wait()
        samples: Samples = self._samples.numpy().copy()
        return samples


class FramePipeline:
    """Launches frames. The static buffers between model, codec and host, and the graphs of both.

    The model's step is in one lane, the codec's in another, which takes a copy of the codes: so the codec speaks a
    frame while the model makes the next. The host waits once a frame, for codes, which say who has stopped.
    """

    def __init__(self, model: CsmModel, codec: MimiCodec, state: StepState, buckets: BucketGrid) -> None:
        device, rows = model.device, state.active.shape[0]
        self.buckets = buckets
        self.model_stream = DeviceStream(device, StreamPriority.FRAMES)
        self.codec_stream = DeviceStream(device, StreamPriority.FRAMES)
        self.step_graphs, self.general_graphs, self.codec_graphs = CapturedGraphs(), CapturedGraphs(), CapturedGraphs()
        self.step_done = self._codes_copied = COMPLETED  # the last frame's codes
        self._model, self._codec, self._state = model, codec, state
        self._speaking: list[int] = []
        self._turn = 0
        pinned = device.type == "cuda"
        self._mask = torch.zeros(rows, dtype=torch.bool, pin_memory=pinned)
        self._hosts = [
            (
                torch.zeros_like(state.output, device="cpu", pin_memory=pinned),
                torch.zeros(rows, FRAME_SAMPLES, pin_memory=pinned),
            )
            for _ in range(2)
        ]
        self._codes = torch.zeros_like(state.output)  # the codec's copy
        self._samples = torch.zeros(rows, FRAME_SAMPLES, device=device)

    def launch(self, speaking: list[int], bucket: Bucket, kind: SamplingMode) -> Frame:
        """Begin one frame for these rows and come back before it is made."""
        rows = bucket.rows
        outcome, samples = (buffer[:rows] for buffer in self._hosts[self._turn])
        self._turn = 1 - self._turn
        with torch.inference_mode():
            with self.model_stream.as_current():
                self.model_stream.wait_event(self._codes_copied)
                self._set_active_rows(speaking)
                self._step(bucket, kind)
                outcome.copy_(self._state.output[:rows], non_blocking=True)
                self.step_done = self.model_stream.record_event()
            with self.codec_stream.as_current():
                self.codec_stream.wait_event(self.step_done)
                self._codes[:rows] = self._state.output[:rows]
                self._codes_copied = self.codec_stream.record_event()
                if not self.codec_graphs.replay(Bucket(rows)):
                    self._decode(Bucket(rows))
                samples.copy_(self._samples[:rows], non_blocking=True)
                return Frame(outcome, samples, self.step_done, self.codec_stream.record_event())

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """For changes to the state between two frames: behind the last step, and the codec has what it gave."""
        with self.model_stream.as_current(), torch.inference_mode():
            self.model_stream.wait_event(self._codes_copied)
            yield

    def _set_active_rows(self, speaking: list[int]) -> None:
        """Nothing is copied while the same rows speak."""
        if speaking != self._speaking:
            self.step_done.wait()  # the last copy has left the staging buffer
            self._mask.zero_()
            self._mask[speaking] = True
            self._state.active.copy_(self._mask, non_blocking=True)
            self._speaking = list(speaking)

    def _step(self, bucket: Bucket, kind: SamplingMode) -> None:
        if kind.guided or kind.top_k > CAPTURED_MODE.top_k:
            replayed = self.general_graphs.replay(self._general_bucket(bucket.rows))
        else:
            replayed = self.step_graphs.replay(bucket)
        if not replayed:
            self._eager_step(bucket, kind)

    def _eager_step(self, bucket: Bucket, kind: SamplingMode = CAPTURED_MODE) -> None:
        self._model.frame_step(self._state, bucket.rows, bucket.context, kind)

    def _general_bucket(self, rows: int) -> Bucket:
        """Where a step that can do whatever a request may ask for is recorded: over the whole context alone."""
        return Bucket(rows, self.buckets.contexts[-1])

    def _general_step(self, bucket: Bucket) -> None:
        self._eager_step(bucket, SamplingMode(top_k=self._model.sampled_vocab, sampled=True, guided=True))

    def _decode(self, bucket: Bucket) -> None:
        rows = bucket.rows
        self._samples[:rows] = self._codec.decode(self._codes[:rows, :-1], self._codes[:rows, -1] != 0)

    def seconds(self, bucket: Bucket, rounds: int = 3) -> float:
        """What a frame of that shape takes, the codec's part included. Only while nobody speaks."""
        took = []
        for _ in range(rounds):
            begun = time.perf_counter()
            frame = self.launch(list(range(bucket.rows)), bucket, CAPTURED_MODE)
            assert len(frame.samples) == bucket.rows
            took.append(time.perf_counter() - begun)
        with torch.inference_mode(), self.model_stream.as_current():
            self._set_active_rows([])
            self._state.position.zero_()
        return min(took)

    # ---- the graphs

    def record(self, steps: GraphCapturer, codec: GraphCapturer, progress: Callable[[int, int], None]) -> None:
        """Record every bucket while nobody speaks, then hold each against its plain twin.

        progress: called with (graphs begun, graphs in all). Where one says something else than its twin, or cannot be
        recorded at all, everything is done plainly, and a warning says so.
        """
        rows = self.buckets.rows[::-1]
        parts = (
            (self.general_graphs, steps, list(map(self._general_bucket, rows)), self._general_step),
            (self.step_graphs, steps, self.buckets.largest_first(), self._eager_step),
            (self.codec_graphs, codec, list(map(Bucket, rows)), self._decode),
        )
        total = sum(len(buckets) for _, _, buckets, _ in parts)
        counts = iter(range(1, total + 1))
        try:
            with torch.inference_mode(), self.model_stream.as_current():
                self._set_active_rows([])
                for graphs, capturer, buckets, work in parts:
                    graphs.capture(capturer, buckets, work, lambda bucket: progress(next(counts), total))
                wrong = self._differing()
                self.model_stream.record_event().wait()  # the codec stream does not wait for this one by itself
        except Exception as error:  # a driver, an operator that cannot be recorded: the plain step says the same
            log.warning("frames cannot be recorded here, so each kernel is launched by itself: %r", error)
            self._clear_graphs()
            return
        if wrong:
            log.warning("recorded frames say something else than plain ones (%s), so frames stay plain", wrong)
            self._clear_graphs()
        if missing := self._missing:
            log.warning(
                "memory sufficed for %d graphs of %d: frames of %s are launched kernel by kernel; use fewer slots",
                *(total - len(missing), total, ", ".join(f"{each.rows} rows x {each.context}" for each in missing)),
            )

    @property
    def recorded(self) -> str:
        """How many graphs there are, for people."""
        count = sum(map(len, self._graphs))
        return f"{count} of {count + len(self._missing)}" if count else "none"

    @property
    def _graphs(self) -> tuple[CapturedGraphs, ...]:
        return self.step_graphs, self.general_graphs, self.codec_graphs

    @property
    def _missing(self) -> list[Bucket]:
        return [bucket for graphs in self._graphs for bucket in graphs.missing]

    def _clear_graphs(self) -> None:
        for graphs in self._graphs:
            graphs.clear()

    def _differing(self) -> str:
        """The first bucket of which a replay is not what its twin is; empty if there is none."""
        for graphs, work in ((self.general_graphs, self._general_step), (self.step_graphs, self._eager_step)):
            for bucket in filter(graphs.__contains__, self.buckets.largest_first()):
                plain, replayed = (self._rehearsed(bucket, how) for how in (work, graphs.replay))
                if not all(map(torch.equal, plain, replayed)):
                    return f"{bucket.rows} rows, {bucket.context} positions"
        for rows in self.buckets.rows:
            if Bucket(rows) in self.codec_graphs:
                expected, sound = (self._sounded(rows, replay) for replay in (False, True))
                if not torch.allclose(sound, expected, atol=1e-4 * float(expected.abs().max())):
                    return f"the codec, {rows} rows"
        return ""

    def _rehearsed(self, bucket: Bucket, step: Callable[[Bucket], object]) -> list[Tensor]:
        """What two frames leave behind that begin with contrived settings. Nobody speaks before or after."""
        state, rows = self._state, bucket.rows
        number = torch.arange(rows, device=state.active.device)
        state.codes[:rows] = (number[:, None] * 7 + torch.arange(state.codes.shape[1], device=number.device)) % (
            self._model.sampled_vocab
        )
        state.position[:rows] = (bucket.context - 2 - number % 2).clamp(min=0)
        state.active[:rows] = number % 3 != 1
        state.starting[:rows] = number % 4 == 0
        state.sampling.seed[:rows], state.sampling.frame[:rows], state.sampling.top_k[:rows] = number, 5, 50
        state.sampling.temperature[:rows] = state.sampling.temperature_first[:rows] = 0.9
        state.sampling.guidance[:rows] = number % 2
        state.sampling.unconditional[:rows] = rows - 1 - number
        for _ in range(2):
            step(bucket)
        left = [state.output[:rows], state.position[:rows], state.sampling.frame[:rows], state.starting[:rows]]
        copies = [tensor.clone() for tensor in left]
        for tensor in (*left, state.active, state.sampling.guidance):
            tensor.zero_()
        state.sampling.unconditional[:rows] = number
        return copies

    def _sounded(self, rows: int, replay: bool) -> Tensor:
        """The second frame of rows that had said nothing."""
        for row in range(rows):
            self._codec.reset(row)
        number = torch.arange(rows, device=self._codes.device)
        for step in range(2):
            self._codes[:rows, :-1] = ((number + step) % self._model.sampled_vocab)[:, None]
            self._codes[:rows, -1] = 1
            if replay:
                self.codec_graphs.replay(Bucket(rows))
            else:
                self._decode(Bucket(rows))
        return self._samples[:rows].clone()
