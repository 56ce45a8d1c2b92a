"""Buckets, and graph capture when memory runs out or capture fails."""

from __future__ import annotations

import itertools

import pytest
import torch

from engine.model.graphs import Bucket, CapturedGraphs, Work, fine_buckets, graph_buckets, row_sizes


@pytest.mark.parametrize("rows", [2, 3, 4, 33, 64, 200, 512])
@pytest.mark.parametrize("positions", [100, 512, 2048])
def test_every_step_has_a_bucket_at_most_twice_its_size(rows: int, positions: int) -> None:
    buckets = graph_buckets(2, rows, positions, live=False)
    assert buckets.rows[-1] == rows
    assert buckets.contexts[-1] == positions
    for needed in range(1, rows + 1):
        assert needed <= buckets.bucket_for(needed, 1).rows <= max(2 * needed, 2)
    for context in range(1, positions + 1):
        assert context <= buckets.bucket_for(1, context).context <= max(2 * context, 256)
    assert len(buckets.largest_first()) <= 60  # each takes time at startup


def test_attention_over_live_positions_needs_few_contexts() -> None:
    assert graph_buckets(2, 256, 2048, live=True).contexts == (512, 2048)
    assert graph_buckets(2, 256, 512, live=True).contexts == (512,)
    assert len(graph_buckets(2, 256, 2048, live=True).largest_first()) == 24


def test_buckets_are_captured_largest_first() -> None:
    order = graph_buckets(2, 100, 1024, live=False).largest_first()
    assert order[0] == Bucket(100, 1024)
    assert len(set(order)) == len(order)
    assert [each.rows for each in order] == sorted((each.rows for each in order), reverse=True)


def test_without_graphs_buckets_are_fine_grained() -> None:
    buckets = fine_buckets(2, 16, 500, 64)
    assert buckets.bucket_for(1, 1) == Bucket(2, 64)
    assert buckets.bucket_for(11, 65) == Bucket(11, 128)
    assert buckets.bucket_for(16, 500) == Bucket(16, 500)


def test_large_row_sizes_grow_by_at_most_half() -> None:
    sizes = row_sizes(2, 512)
    assert sizes[0] == 2
    assert sizes[-1] == 512
    assert all(after / before <= 1.5 for before, after in itertools.pairwise(sizes) if before >= 16)


class LimitedCapturer:
    """Captures `capacity` graphs, then runs out of memory."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity

    def capture(self, work: Work) -> Work:
        if self._capacity == 0:
            raise torch.OutOfMemoryError("out of memory")
        self._capacity -= 1
        return work


def test_buckets_that_run_out_of_memory_are_listed_as_missing() -> None:
    done: list[Bucket] = []
    graphs, buckets = CapturedGraphs(), graph_buckets(2, 4, 512, live=False).largest_first()
    started: list[Bucket] = []
    graphs.capture(LimitedCapturer(3), buckets, done.append, started.append)
    assert started == buckets
    assert len(graphs) == 3
    assert graphs.missing == buckets[3:]
    assert [graphs.replay(bucket) for bucket in buckets] == [True] * 3 + [False]
    assert done == buckets[:3]


def test_other_capture_errors_are_raised() -> None:
    class Broken:
        def capture(self, work: Work) -> Work:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"):
        CapturedGraphs().capture(Broken(), [Bucket(2)], lambda bucket: None)
