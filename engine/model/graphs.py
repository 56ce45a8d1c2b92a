"""CUDA graphs per batch and context bucket: a frame is thousands of small kernels, which a graph launches as one.

Captured work reads and writes static buffers, so each graph belongs to one bucket of shapes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch

Work = Callable[[], None]


@dataclass(frozen=True)
class Bucket:
    """One captured shape: the first `rows` rows. Slots are filled from row 0, so a bucket is a prefix of the batch.

    context: the most positions that a row attends to; 0 for work without attention, such as the codec's.
    """

    rows: int
    context: int = 0


@dataclass(frozen=True)
class BucketGrid:
    """All buckets: every combination of `rows` and `contexts`, both ascending."""

    rows: tuple[int, ...]
    contexts: tuple[int, ...]

    def bucket_for(self, rows: int, context: int) -> Bucket:
        """The smallest bucket with at least this many rows and positions."""
        return Bucket(
            next(size for size in self.rows if size >= rows), next(size for size in self.contexts if size >= context)
        )

    def largest_first(self) -> list[Bucket]:
        return [Bucket(rows, context) for rows in reversed(self.rows) for context in reversed(self.contexts)]


_DENSE_FROM = 16  # from here on a size halfway between powers of two is added: unused rows cost time
_FIRST_CONTEXT = 256  # of contexts that double
_LIVE_CONTEXT = 512  # where attention reads live positions: a larger context costs only the programs that find none


def row_sizes(min_rows: int, max_rows: int) -> list[int]:
    """`min_rows` doubled repeatedly up to `max_rows`, with 1.5 times the size added from 16 on."""
    sizes, size = [], min_rows
    while size <= max_rows:
        sizes.append(size)
        if size >= _DENSE_FROM and size + size // 2 <= max_rows:
            sizes.append(size + size // 2)
        size *= 2
    return sizes


def graph_buckets(min_rows: int, rows: int, positions: int, live: bool) -> BucketGrid:
    """Buckets for graph capture, few enough to capture all: rows from `row_sizes`, contexts doubling from 256.

    live: attention reads each row's live positions only, whatever the context: then two contexts do. `rows` and
    `positions` themselves are always included.
    """
    sizes = row_sizes(min_rows, rows - 1)
    if live:
        return BucketGrid((*sizes, rows), (_LIVE_CONTEXT, positions) if positions > _LIVE_CONTEXT else (positions,))
    contexts, context = [], _FIRST_CONTEXT
    while context < positions:
        contexts.append(context)
        context *= 2
    return BucketGrid((*sizes, rows), (*contexts, positions))


def fine_buckets(min_rows: int, rows: int, positions: int, step: int) -> BucketGrid:
    """Buckets without graph capture: every number of rows, contexts in multiples of `step`."""
    return BucketGrid(tuple(range(min_rows, rows + 1)), (*range(step, positions, step), positions))


class GraphCapturer(Protocol):
    """Captures work and returns a function that replays it on the same addresses."""

    def capture(self, work: Work) -> Work:
        """Raises torch.OutOfMemoryError if memory does not suffice, and any error that prevents capture."""
        ...


class CudaGraphCapturer:
    """Captures CUDA graphs into one memory pool. They must be replayed on one stream, one at a time, in any order.

    Graphs that run concurrently need a capturer each. urgency: priority of the stream they are replayed on; kernels
    keep the priority they were captured with.
    """

    def __init__(self, device: torch.device, urgency: int) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device, priority=-urgency)  # type: ignore[no-untyped-call]

    def capture(self, work: Work) -> Work:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            work()  # loads kernels, compiles, makes persistent allocations
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return graph.replay


@dataclass
class CapturedGraphs:
    """Captured graphs by bucket. Callers run the work directly where no graph exists."""

    missing: list[Bucket] = field(default_factory=list)  # not captured: out of memory
    _replays: dict[Bucket, Work] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._replays)

    def __contains__(self, bucket: Bucket) -> bool:
        return bucket in self._replays

    def capture(
        self,
        capturer: GraphCapturer,
        buckets: Iterable[Bucket],
        work: Callable[[Bucket], None],
        progress: Callable[[Bucket], None] = lambda bucket: None,
    ) -> None:
        """Capture the work of every bucket. Pass the largest first: the others then fit into its memory.

        Buckets that run out of memory are added to `missing`. Any other error is raised.
        """
        for bucket in buckets:
            progress(bucket)
            try:
                self._replays[bucket] = capturer.capture(lambda bucket=bucket: work(bucket))  # type: ignore[misc]
            except torch.OutOfMemoryError:
                self.missing.append(bucket)
                gc.collect()  # frees the memory of the incomplete graph

    def replay(self, bucket: Bucket) -> bool:
        """Replay the bucket's graph. Returns False and does nothing if there is none."""
        replay = self._replays.get(bucket)
        if replay is None:
            return False
        replay()
        return True

    def clear(self) -> None:
        self._replays.clear()
