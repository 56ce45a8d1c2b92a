"""Records a runner's CUDA graphs: all of them at load, or the largest at load and the others while nobody speaks."""

from __future__ import annotations

from collections.abc import Callable

from .frame_pipeline import FramePipeline
from .interface import Progress
from .model.graphs import GraphCapturer
from .prefill_streams import PrefillStreams

_FRAMES = 0.75  # their share of the progress; the rest is for prompts


class GraphRecording:
    """The graphs of frames and of prompts, in the order in which they are recorded: the largest of each kind first.

    A smaller batch may replay a larger graph, at the cost of the rows that it does not use: the largest ones are enough
    to begin with.
    steps, codec, prefill: capturers; `prefill` makes one for each of the prompts' streams.
    """

    def __init__(
        self,
        frames: FramePipeline,
        prefills: PrefillStreams,
        steps: GraphCapturer,
        codec: GraphCapturer,
        prefill: Callable[[], GraphCapturer],
    ) -> None:
        self._frames = frames
        self._frame_graphs = frames.record_graphs(steps, codec)
        self._prompt_graphs = prefills.record_graphs(prefill)

    def record_all(self, progress: Progress) -> None:
        """Record every graph."""
        for done, of in self._frame_graphs:
            progress(_FRAMES * done / of, f"capturing graphs {done} of {of}")
        for done, of in self._prompt_graphs:
            progress(_FRAMES + (1 - _FRAMES) * done / of, f"capturing prompt graphs {done} of {of}")

    def record_largest(self, progress: Progress) -> None:
        """Record the graphs of frames of all rows, and one of the longest prompt pass."""
        progress(0.0, "capturing the largest graphs")
        self.record_rows(self._frames.buckets.rows[-1])
        next(self._prompt_graphs, None)

    def record_rows(self, rows: int) -> None:
        """Record the graphs of frames down to this many rows, unless they are there."""
        while min(self._frames.recorded_rows, default=rows + 1) > rows and next(self._frame_graphs, None) is not None:
            pass

    def record_one(self) -> bool:
        """Record one more graph, while no row is in use. Returns False if all are recorded."""
        return any(next(graphs, None) is not None for graphs in (self._frame_graphs, self._prompt_graphs))
