"""Counters and histograms of all worker processes, in shared memory.

The master creates the memory before it forks. Each worker has a row that only it writes, so that processes need no
lock; the worker that replaces a dead one continues its row. So a `kill -9` loses no counts, memory does not grow with
restarts, and there is no file to clean up.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

OTHER = "other"  # replaces a label value that is not listed


@dataclass(frozen=True)
class Counter:
    """A sum that only grows. labels: each with all its values, so that their number is bounded."""

    name: str
    help: str
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        return math.prod(map(len, self.labels.values()))

    @property
    def combinations(self) -> Iterator[tuple[str, ...]]:
        """The label values, in the order of the cells."""
        return product(*self.labels.values())

    def cell(self, labels: Mapping[str, str]) -> int:
        """The index of a cell. Raises KeyError for an unlisted value if the label has no `other`."""
        at = 0
        for name, values in self.labels.items():
            value = labels[name] if labels[name] in values else OTHER
            if value not in values:
                raise KeyError(f"{self.name} has no {name}={labels[name]!r}")
            at = at * len(values) + values.index(value)
        return at


@dataclass(frozen=True)
class Histogram:
    """A distribution of values. buckets: increasing upper bounds; the +Inf bucket is added."""

    name: str
    help: str
    buckets: Sequence[float]

    @property
    def cells(self) -> int:
        return len(self.buckets) + 2  # the +Inf bucket and the sum

    def cell(self, value: float) -> int:
        return next((at for at, bound in enumerate(self.buckets) if value <= bound), len(self.buckets))


Family = Counter | Histogram


class SharedCounters:
    """A row of float64 cells for each worker: (rows, columns); each family has a range of columns."""

    def __init__(self, families: Sequence[Family], rows: int) -> None:
        self.families = tuple(families)
        self.rows = rows
        self._starts: dict[str, int] = {}
        at = 0
        for family in self.families:
            self._starts[family.name] = at
            at += family.cells
        self._columns = at
        self._memory = mmap.mmap(-1, rows * at * 8)  # zeros, shared with every fork
        self._cells = memoryview(self._memory).cast("d")
        self._lock = threading.Lock()  # between the threads of one process

    def add(self, row: int, counter: Counter, amount: float = 1.0, **labels: str) -> None:
        self._add(row, self._starts[counter.name] + counter.cell(labels), amount)

    def observe(self, row: int, histogram: Histogram, value: float) -> None:
        start = self._starts[histogram.name]
        self._add(row, start + histogram.cell(value), 1.0)
        self._add(row, start + histogram.cells - 1, value)

    def of_row(self, row: int, family: Family) -> list[float]:
        """The cells of one row."""
        start = row * self._columns + self._starts[family.name]
        return list(map(float, self._cells[start : start + family.cells]))

    def sums(self, family: Family) -> list[float]:
        """The cells, summed over all rows."""
        import numpy as np  # here: the master needs no sums and forks without numpy's threads

        table = np.frombuffer(self._memory).reshape(self.rows, self._columns)
        start = self._starts[family.name]
        return list(map(float, table[:, start : start + family.cells].sum(axis=0)))

    def _add(self, row: int, column: int, amount: float) -> None:
        with self._lock:
            self._cells[row * self._columns + column] += amount
