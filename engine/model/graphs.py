"""Work recorded once and replayed: a frame is thousands of small kernels, and a graph launches them as one.

What is recorded reads and writes state at fixed addresses, so a graph belongs to one shape of the work: a bucket.
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
    """A shape of the work. Low rows are taken first, so a bucket is a prefix of them.

    context: how many positions of the context a row reads at most; 0 for work that reads none.
    """

    rows: int
    context: int = 0


@dataclass(frozen=True)
class BucketGrid:
    """Every shape that is ever used: each of `rows` with each of `contexts`, both ascending."""

    rows: tuple[int, ...]
    contexts: tuple[int, ...]

    def bucket_for(self, rows: int, context: int) -> Bucket:
        """The smallest that holds so many."""
        return Bucket(
            next(size for size in self.rows if size >= rows), next(size for size in self.contexts if size >= context)
        )

    def largest_first(self) -> list[Bucket]:
        return [Bucket(rows, context) for rows in reversed(self.rows) for context in reversed(self.contexts)]


_DENSE_FROM = 64  # from here on half steps between the powers of two: rows that nobody needs cost time


def row_sizes(fewest: int, most: int) -> list[int]:
    """Powers of two from `fewest` on, the larger ones with a step between, as far as `most`."""
    sizes, size = [], fewest
    while size <= most:
        sizes.append(size)
        if size >= _DENSE_FROM and size + size // 2 <= most:
            sizes.append(size + size // 2)
        size *= 2
    return sizes


def graph_buckets(fewest: int, rows: int, positions: int) -> BucketGrid:
    """Few enough to record them all: contexts from 256 on by doubling, rows as `row_sizes` has them, and all."""
    sizes = row_sizes(fewest, rows - 1)
    contexts, context = [], 256
    while context < positions:
        contexts.append(context)
        context *= 2
    return BucketGrid((*sizes, rows), (*contexts, positions))


def fine_buckets(fewest: int, rows: int, positions: int, step: int) -> BucketGrid:
    """Where nothing is recorded: as many rows as there are, contexts by `step` positions."""
    return BucketGrid(tuple(range(fewest, rows + 1)), (*range(step, positions, step), positions))


class GraphCapturer(Protocol):
    """Turns work into something that does it again, on the same addresses."""

    def capture(self, work: Work) -> Work:
        """Raises torch.OutOfMemoryError if there is no room for it, and whatever stands in the way of recording."""
        ...


class CudaGraphCapturer:
    """CUDA graphs that share one memory pool: they are replayed one after the other, on one stream, in any order.

    What runs beside them needs a recorder of its own. urgency: that of the lane they are replayed in; a kernel keeps
    the priority that it was recorded with.
    """

    def __init__(self, device: torch.device, urgency: int) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device, priority=-urgency)  # type: ignore[no-untyped-call]

    def capture(self, work: Work) -> Work:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            work()  # loads kernels, builds what is compiled, allocates what stays
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return graph.replay


@dataclass
class CapturedGraphs:
    """The recorded work of each bucket. What could not be recorded is done plainly by whoever asks."""

    missing: list[Bucket] = field(default_factory=list)  # for want of memory
    _recorded: dict[Bucket, Work] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._recorded)

    def __contains__(self, bucket: Bucket) -> bool:
        return bucket in self._recorded

    def capture(
        self,
        capturer: GraphCapturer,
        buckets: Iterable[Bucket],
        work: Callable[[Bucket], None],
        progress: Callable[[Bucket], None] = lambda bucket: None,
    ) -> None:
        """Record the work of every bucket. Give the largest first: the others fit into the memory that it took.

        A bucket that memory does not suffice for is left out. Raises what else stands in the way.
        """
        for bucket in buckets:
            progress(bucket)
            try:
                self._recorded[bucket] = capturer.capture(lambda bucket=bucket: work(bucket))  # type: ignore[misc]
            except torch.OutOfMemoryError:
                self.missing.append(bucket)
                gc.collect()  # the half-made graph holds memory

    def replay(self, bucket: Bucket) -> bool:
        """Do the bucket's work again. False, and nothing happens, if it was not recorded."""
        replay = self._recorded.get(bucket)
        if replay is None:
            return False
        replay()
        return True

    def clear(self) -> None:
        self._recorded.clear()
