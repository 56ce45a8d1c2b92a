"""The CUDA streams that prompts are prefilled on: each request gets one at admission, by load.

A request's voice is restored and its prompt prefilled on its stream. What is admitted in the same round gets the same
stream and is packed into the same passes; a stream that is still busy with an earlier round is passed over, so that new
prompts do not queue behind it. On a CPU there is one stream, and everything on it is complete at once.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cuda_streams import COMPLETED, DeviceStream, StreamEvent, StreamPriority
from .model.csm import CsmModel, StepState
from .model.fused_prefill import FusedPrefill
from .model.graphs import GraphCapturer
from .prefill_pipeline import PrefillPipeline
from .prompt_packing import PromptPiece

log = logging.getLogger(__name__)

AUTO_STREAMS = {"cpu": 1, "cuda": 2}


@dataclass(frozen=True)
class SavedKv:
    """Keys and values of a row's first positions. written: when the device has copied them."""

    tensor: Tensor
    written: StreamEvent = COMPLETED

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes


def open_streams(device: torch.device, count: int) -> list[DeviceStream]:
    """As many prefill streams as the device has, at most `count`, at least one. Says so if there are fewer."""
    streams: list[DeviceStream] = []
    reason = ""
    while len(streams) < count and not reason:
        try:
            stream = DeviceStream(device, StreamPriority.PREFILL)
        except RuntimeError as error:
            if not streams:
                raise
            reason = str(error)
            break
        if stream.handle is not None and stream.handle in {each.handle for each in streams}:
            reason = "it has no further one of this priority"
        else:
            streams.append(stream)
    if reason:
        log.warning(
            "%d of the %d prefill streams asked for: %s gives no more (%s)", len(streams), count, device, reason
        )
    return streams


class PrefillStreams:
    """Owns a prefill pipeline for each stream, and which of them each row uses.

    count: of streams; more than rows are never used.
    """

    def __init__(self, model: CsmModel, state: StepState, rows: int, count: int) -> None:
        streams = open_streams(model.device, min(count, rows))
        self.pipelines = [PrefillPipeline(model, state, stream) for stream in streams]
        self._assigned = self.pipelines  # those that new requests get
        self._cache = state.backbone
        self._pipeline_of = [self.pipelines[0]] * rows
        self._restored: dict[int, SavedKv] = {}  # for the next launch
        self._prefilled = [COMPLETED] * rows  # the last prefill or restored voice of each row

    @property
    def max_tokens(self) -> int:
        """Of one pass."""
        return self.pipelines[0].max_tokens

    @property
    def graphs(self) -> int:
        """Captured graphs of all streams."""
        return sum(len(each.graphs) for each in self.pipelines)

    @property
    def fused(self) -> bool:
        """Whether fused kernels compute the passes."""
        return all(each.fused is not None for each in self.pipelines)

    def use_fused(self, passes: Sequence[FusedPrefill]) -> None:
        """Compute the passes with fused kernels, one for each stream, or with plain ones if there are none."""
        for pipeline, fused in zip(self.pipelines, passes, strict=False):
            pipeline.fused = fused

    def assign(self, rows: Iterable[int]) -> None:
        """Give the rows of a new request the stream with the fewest tokens in flight; of equals, the first.

        Restored voices and prompts are counted once their pass is launched, so all requests of a round get one stream.
        """
        pipeline = min(self._assigned, key=lambda each: each.tokens_in_flight)
        for row in rows:
            self._pipeline_of[row] = pipeline

    def launch(self, pieces: Sequence[PromptPiece], stepped: Sequence[StreamEvent]) -> None:
        """Restore voices and prefill pieces, packed by stream, and return without waiting for the device.

        stepped: by row, the last frame that advanced it.
        """
        restored, self._restored = self._restored, {}
        for pipeline in self.pipelines:
            own = [piece for piece in pieces if self._pipeline_of[piece.row] is pipeline]
            voices = {row: saved for row, saved in restored.items() if self._pipeline_of[row] is pipeline}
            rows = {piece.row for piece in own} | voices.keys()
            if rows:
                after = {event for row in rows for event in (stepped[row], self._prefilled[row])}
                after |= {saved.written for saved in voices.values()}
                done = pipeline.launch(own, after, [(row, saved.tensor) for row, saved in voices.items()])
                for row in rows:
                    self._prefilled[row] = done

    def prefilled(self, rows: Iterable[int]) -> set[StreamEvent]:
        """When the device has prefilled these rows."""
        return {self._prefilled[row] for row in rows}

    def copy_out(self, row: int, length: int) -> SavedKv:
        """Copy the keys and values of a row's first positions."""
        stream = self._pipeline_of[row].stream
        with stream.as_current(), torch.inference_mode():
            return SavedKv(self._cache.copy_out(row, length), stream.record_event())

    def restore(self, row: int, saved: SavedKv) -> None:
        """Put saved keys and values at the start of a row's context, together with others, by the next `launch`."""
        self._restored[row] = saved

    def record_graphs(self, capturer: Callable[[], GraphCapturer]) -> Iterator[tuple[int, int]]:
        """Record every stream's graphs, see PrefillPipeline. A stream without memory for all of them is not used.

        capturer: makes one for each stream, since passes on two streams run at the same time. Until all are recorded,
        new requests get the first stream. Yields (graphs recorded, graphs in all) after each graph.
        """
        counts, total = itertools.count(1), sum(len(each.graph_sizes) for each in self.pipelines)
        self._assigned = self.pipelines[:1]
        for pipeline in self.pipelines:
            for _ in pipeline.record_graphs(capturer()):
                yield next(counts), total
        complete = [each for each in self.pipelines if len(each.graphs) == len(self.pipelines[0].graphs)]
        if missing := len(self.pipelines) - len(complete):
            log.warning("%d prefill streams are not used: their graphs are missing. Use fewer", missing)
            self.pipelines = complete
            self._pipeline_of = [complete[0]] * len(self._pipeline_of)
        self._assigned = self.pipelines
