"""One frame for all active rows: the model's step, then the codec's, which overlaps the model's next step."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codec.mimi import MimiCodec
from .cuda_streams import COMPLETED, DeviceStream, StreamEvent, StreamPriority, upload
from .model.csm import CsmModel, StepState
from .model.fused_frames import FusedFrames
from .model.graphs import Bucket, BucketGrid, CapturedGraphs, GraphCapturer
from .model.row_record import as_words
from .model.sampling import SamplingMode
from .types import FRAME_SAMPLES, Codes, Samples

log = logging.getLogger(__name__)

# The sampling mode that graphs of every bucket are captured for. For greedy rows it gives the result of a greedy step.
CAPTURED_MODE = SamplingMode(top_k=64, sampled=True, guided=False)
_RESET = Bucket(0)  # the codec's reset, of any rows


class Frame:
    """Outputs of one step on the host, for a prefix of the rows; only rows that were active are meaningful.

    Reading blocks until the data is there: codes after the model's step, samples after the codec's. Two sets of host
    buffers alternate, so read a frame before the next but one is launched.
    """

    def __init__(self, output: Tensor, samples: Tensor, codes_event: StreamEvent, samples_event: StreamEvent) -> None:
        self._output, self._samples = output, samples
        self._codes_event, self._samples_event = codes_event, samples_event

    @cached_property
    def _host_output(self) -> np.ndarray[Any, Any]:
        self._codes_event.wait()
        return self._output.numpy().copy()

    @property
    def computed(self) -> bool:
        """Whether reading `codes` and `stopped` does not block."""
        return self._codes_event.completed

    @property
    def codes(self) -> Codes:
        """(rows, codebooks)"""
        codes: Codes = self._host_output[:, :-1]
        return codes

    @cached_property
    def stopped(self) -> np.ndarray[Any, Any]:
        """bool (rows,): this is the stop frame, which carries no audio."""
        stopped: np.ndarray[Any, Any] = self._host_output[:, -1] == 0
        return stopped

    @cached_property
    def samples(self) -> Samples:
        """(rows, 1920)"""
        self._samples_event.wait()
        samples: Samples = self._samples.numpy().copy()
        return samples


class FramePipeline:
    """Launches frames. Owns the static buffers between model, codec and host, and the CUDA graphs of both.

    Model and codec run on streams of their own, and the codec reads a copy of the codes, so it decodes one frame while
    the model computes the next. The host waits once a frame, for the codes, which tell which rows have stopped.
    """

    def __init__(self, model: CsmModel, codec: MimiCodec, state: StepState, buckets: BucketGrid) -> None:
        device, rows = model.device, state.active.shape[0]
        self.buckets = buckets
        self.model_stream = DeviceStream(device, StreamPriority.FRAMES)
        self.codec_stream = DeviceStream(device, StreamPriority.CODEC)
        self.step_graphs, self.general_graphs, self.codec_graphs = CapturedGraphs(), CapturedGraphs(), CapturedGraphs()
        self.reset_graph = CapturedGraphs()
        self.fused: FusedFrames | None = None  # computes the step of its buckets; set by the loader, before capture
        self.step_done = self._codes_copied = self._decoded = COMPLETED  # the last frame: step, codes copied, samples
        self._model, self._codec, self._state = model, codec, state
        self.recorded_rows: tuple[
            int, ...
        ] = ()  # while graphs are being recorded: the numbers of rows that have theirs
        self._active_rows: list[int] = []
        self._buffer_index = 0
        pinned = device.type == "cuda"
        self._active_mask = torch.zeros(rows, dtype=torch.bool, pin_memory=pinned)
        self._codec_resets = torch.zeros(rows, dtype=torch.bool, device=device)
        self._host_buffers = [
            (
                torch.zeros_like(state.output, device="cpu", pin_memory=pinned),
                torch.zeros(rows, FRAME_SAMPLES, pin_memory=pinned),
            )
            for _ in range(2)
        ]
        self._records = torch.zeros_like(state.table.words)  # on their way into the table
        self._codes = torch.zeros_like(state.output)  # the codec's input
        self._samples = torch.zeros(rows, FRAME_SAMPLES, device=device)

    def launch(self, active_rows: list[int], bucket: Bucket, mode: SamplingMode) -> Frame:
        """Launch one frame for these rows and return without waiting for it."""
        rows = bucket.rows
        output, samples = (buffer[:rows] for buffer in self._host_buffers[self._buffer_index])
        self._buffer_index = 1 - self._buffer_index
        with torch.inference_mode():
            with self.model_stream.as_current():
                self.model_stream.wait_event(self._decoded if self._is_persistent else self._codes_copied)
                self._set_active_rows(active_rows)
                self._step(bucket, mode)
                output.copy_(self._state.output[:rows], non_blocking=True)
                self.step_done = self.model_stream.record_event()
            with self.codec_stream.as_current():
                self.codec_stream.wait_event(self.step_done)
                self._codes[:rows] = self._state.output[:rows]
                self._codes_copied = self.codec_stream.record_event()
                if not self.codec_graphs.replay(Bucket(rows)):
                    self._decode(Bucket(rows))
                samples.copy_(self._samples[:rows], non_blocking=True)
                self._decoded = self.codec_stream.record_event()
                return Frame(output, samples, self.step_done, self._decoded)

    def start_rows(self, records: np.ndarray[Any, Any], prefilled: Iterable[StreamEvent]) -> None:
        """Set rows up for the next frame, which waits for their prefill: one copy and one scatter, however many.

        records: (count,) of dtype ROW_RECORD.
        """
        words = as_words(records)
        with self.model_stream.as_current(), torch.inference_mode():
            for event in prefilled:
                self.model_stream.wait_event(event)
            staged = self._records[: len(words)]
            upload(words, staged)
            self._state.table.write(staged)

    def reset_codec(self, rows: Iterable[int]) -> None:
        """Clear rows' codec state: their next frame does not continue the previous audio."""
        mask = np.zeros(len(self._codec_resets), np.bool_)
        mask[list(rows)] = True
        with self.codec_stream.as_current(), torch.inference_mode():
            upload(mask, self._codec_resets)
            if not self.reset_graph.replay(_RESET):
                self._codec.reset(self._codec_resets)

    def _set_active_rows(self, active_rows: list[int]) -> None:
        """Copy the mask of active rows to the device, if it has changed."""
        if active_rows != self._active_rows:
            self.step_done.wait()  # the previous copy has left the staging buffer
            self._active_mask.zero_()
            self._active_mask[active_rows] = True
            self._state.active.copy_(self._active_mask, non_blocking=True)
            self._active_rows = list(active_rows)

    def _step(self, bucket: Bucket, mode: SamplingMode) -> None:
        if (mode.guided or mode.top_k > CAPTURED_MODE.top_k) and not self._is_fused(bucket.rows):
            replayed = self.general_graphs.replay(self._general_bucket(bucket.rows))
        else:
            replayed = self.step_graphs.replay(bucket)
        if not replayed:
            self._eager_step(bucket, mode)

    def _eager_step(self, bucket: Bucket, mode: SamplingMode = CAPTURED_MODE) -> None:
        if self.fused is not None and self._is_fused(bucket.rows):
            self.fused.step.frame(bucket.rows, bucket.context)  # of every sampling mode
        else:
            self._model.frame_step(self._state, bucket.rows, bucket.context, mode)

    def _is_fused(self, rows: int) -> bool:
        return self.fused is not None and rows in self.fused.rows

    @property
    def _is_persistent(self) -> bool:
        """The step's largest kernel leaves the codec no room: it would delay the samples of the frame before."""
        return self.fused is not None and self.fused.step.persistent is not None

    def _general_bucket(self, rows: int) -> Bucket:
        """The bucket of the general step, which supports every sampling mode; captured for the whole context only."""
        return Bucket(rows, self.buckets.contexts[-1])

    def _general_step(self, bucket: Bucket) -> None:
        self._eager_step(bucket, SamplingMode(top_k=self._model.sampled_vocab, sampled=True, guided=True))

    def _decode(self, bucket: Bucket) -> None:
        rows = bucket.rows
        self._samples[:rows] = self._codec.decode(self._codes[:rows, :-1], self._codes[:rows, -1] != 0)

    def measure_seconds(self, bucket: Bucket, rounds: int = 3) -> float:
        """Seconds of a frame of this shape, codec included: the best of `rounds`. Only while no row is active."""
        measured = []
        for _ in range(rounds):
            started = time.perf_counter()
            frame = self.launch(list(range(bucket.rows)), bucket, CAPTURED_MODE)
            assert len(frame.samples) == bucket.rows
            measured.append(time.perf_counter() - started)
        with torch.inference_mode(), self.model_stream.as_current():
            self._set_active_rows([])
            self._state.position.zero_()
        return min(measured)

    # ---- CUDA graphs

    def record_graphs(self, steps: GraphCapturer, codec: GraphCapturer) -> Iterator[tuple[int, int]]:
        """Record the graphs of every bucket, those of the most rows first, and compare each replay with the eager step.

        Yields (graphs recorded, graphs in all) after each graph. Between two of them frames may be launched, which use
        the graphs that are there; an iteration goes on while no row is in use. If a replay differs from the eager step,
        or recording fails, all graphs are dropped, every frame runs eagerly and a warning is logged.
        """
        counts, total = itertools.count(1), self._graph_count
        for rows in reversed(self.buckets.rows):
            parts = self._parts(rows)
            for number, (graphs, of_codec, bucket, work) in enumerate(parts, start=1):
                try:
                    self._record(graphs, codec if of_codec else steps, bucket, work)
                    mismatch = self._find_mismatch(rows) if number == len(parts) else ""
                except Exception as error:  # a driver or an operator that cannot be captured; eager frames are equal
                    log.warning("CUDA graph capture failed, so frames run eagerly: %r", error)
                    self._clear_graphs()
                    return
                if mismatch:
                    log.warning("CUDA graph replay differs from the eager step (%s), so frames run eagerly", mismatch)
                    self._clear_graphs()
                    return
                complete = number == len(parts) and all(each in graphs for graphs, _, each, _ in parts)
                if complete or (number == len(parts) and not self.recorded_rows):  # the largest serves every batch
                    self.recorded_rows = (rows, *self.recorded_rows)
                yield next(counts), total
        self.recorded_rows = ()  # all
        if missing := self._missing:
            log.warning(
                "memory sufficed for %d of %d CUDA graphs: frames of %s run eagerly; use fewer slots",
                *(total - len(missing), total, ", ".join(f"{each.rows} rows x {each.context}" for each in missing)),
            )

    @property
    def _graph_count(self) -> int:
        return sum(len(self._parts(rows)) for rows in self.buckets.rows)

    def _parts(self, rows: int) -> list[tuple[CapturedGraphs, bool, Bucket, Callable[[Bucket], None]]]:
        """The graphs of this many rows: where each belongs, whether it is the codec's, its bucket and its work."""
        parts: list[tuple[CapturedGraphs, bool, Bucket, Callable[[Bucket], None]]] = []
        if not self._is_fused(rows):
            parts.append((self.general_graphs, False, self._general_bucket(rows), self._general_step))
        steps = [Bucket(rows, context) for context in reversed(self.buckets.contexts)]
        parts += [(self.step_graphs, False, bucket, self._eager_step) for bucket in steps]
        if rows == self.buckets.rows[-1]:
            parts.append((self.reset_graph, True, _RESET, lambda bucket: self._codec.reset(self._codec_resets)))
        return [*parts, (self.codec_graphs, True, Bucket(rows), self._decode)]

    def _record(
        self, graphs: CapturedGraphs, capturer: GraphCapturer, bucket: Bucket, work: Callable[[Bucket], None]
    ) -> None:
        with torch.inference_mode(), self.model_stream.as_current():
            self.model_stream.wait_event(self._codes_copied)
            self._set_active_rows([])
            graphs.capture(capturer, [bucket], work)
            self.model_stream.record_event().wait()  # the codec stream does not wait for this one by itself

    @property
    def recorded_buckets(self) -> BucketGrid:
        """The buckets to launch: while graphs are being recorded, those that have all of theirs. Else every bucket."""
        return BucketGrid(self.recorded_rows, self.buckets.contexts) if self.recorded_rows else self.buckets

    @property
    def all_fused(self) -> bool:
        """Whether fused kernels compute every step."""
        return all(map(self._is_fused, self.buckets.rows))

    @property
    def step_summary(self) -> str:
        """What computes the steps, for logs: "plain", "fused kernels", or those of some numbers of rows."""
        if self._is_persistent:
            return "fused kernels, one for the depth decoder"
        if self.all_fused:
            return "fused kernels"
        fused = ", ".join(str(rows) for rows in self.buckets.rows if self._is_fused(rows))
        return f"fused kernels for {fused} rows, others plain" if fused else "plain"

    @property
    def graph_summary(self) -> str:
        """How many graphs have been captured, for logs: "57 of 60" or "none"."""
        count = sum(map(len, self._graphs))
        total = self._graph_count if self.recorded_rows else count + len(self._missing)
        return f"{count} of {total}" if count else "none"

    @property
    def _graphs(self) -> tuple[CapturedGraphs, ...]:
        return self.step_graphs, self.general_graphs, self.codec_graphs, self.reset_graph

    @property
    def _missing(self) -> list[Bucket]:
        return [bucket for graphs in self._graphs for bucket in graphs.missing]

    def _clear_graphs(self) -> None:
        self.recorded_rows = ()
        for graphs in self._graphs:
            graphs.clear()

    def _find_mismatch(self, rows: int) -> str:
        """The first bucket of this many rows whose replay differs from the eager result; empty if there is none."""
        with torch.inference_mode(), self.model_stream.as_current():
            for graphs, eager in ((self.general_graphs, self._general_step), (self.step_graphs, self._eager_step)):
                for bucket in (Bucket(rows, context) for context in reversed(self.buckets.contexts)):
                    if bucket not in graphs:
                        continue
                    expected, replayed = (self._run_test_step(bucket, step) for step in (eager, graphs.replay))
                    if not all(map(torch.equal, expected, replayed)):
                        return f"{bucket.rows} rows, {bucket.context} positions"
            if Bucket(rows) in self.codec_graphs:
                eager_samples, samples = (self._run_test_decode(rows, replay) for replay in (False, True))
                if not torch.allclose(samples, eager_samples, atol=1e-4 * float(eager_samples.abs().max())):
                    return f"the codec, {rows} rows"
            self.model_stream.record_event().wait()
        return ""

    def _run_test_step(self, bucket: Bucket, step: Callable[[Bucket], object]) -> list[Tensor]:
        """The state after two frames from contrived inputs. Resets the state and the cache; no row may be active."""
        state, rows = self._state, bucket.rows
        first = max(bucket.context - 3, 0)  # of the positions that the two frames write
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
        outputs = [state.output[:rows], state.position[:rows], state.sampling.frame[:rows], state.starting[:rows]]
        copies = [tensor.clone() for tensor in outputs]
        written = (each[:, :rows, :, first : bucket.context] for each in (state.backbone.keys, state.backbone.values))
        for tensor in (*outputs, state.active, state.sampling.guidance, *written):
            tensor.zero_()
        state.sampling.unconditional[:rows] = number
        return copies

    def _run_test_decode(self, rows: int, replay: bool) -> Tensor:
        """Samples of the second frame after a reset of the codec, (rows, 1920)."""
        self._codec_resets[:] = True
        if not (replay and self.reset_graph.replay(_RESET)):
            self._codec.reset(self._codec_resets)
        number = torch.arange(rows, device=self._codes.device)
        for step in range(2):
            self._codes[:rows, :-1] = ((number + step) % self._model.sampled_vocab)[:, None]
            self._codes[:rows, -1] = 1
            if replay:
                self.codec_graphs.replay(Bucket(rows))
            else:
                self._decode(Bucket(rows))
        return self._samples[:rows].clone()
