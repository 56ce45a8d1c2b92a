"""Sums that all processes of a service keep together, in memory that they share.

The master makes the memory before it forks. Each place has a row, which its worker alone writes, so that no lock is
needed between processes; a worker that comes into the place of a dead one goes on with its row. So nothing that was
counted is lost by a `kill -9`, nothing grows with restarts, and there is no file to clean up.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

OTHER = "other"  # takes the place of a label's value that is not foreseen


@dataclass(frozen=True)
class Counter:
    """A sum that only grows. labels: each with every value it may have, so that there is a bound to them."""

    name: str
    help: str
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        return math.prod(map(len, self.labels.values()))

    @property
    def combinations(self) -> Iterator[tuple[str, ...]]:
        """The labels' values in the order of the cells."""
        return product(*self.labels.values())

    def cell(self, labels: Mapping[str, str]) -> int:
        """Raises KeyError for a value that is not foreseen where the label does not have `other`."""
        at = 0
        for name, values in self.labels.items():
            value = labels[name] if labels[name] in values else OTHER
            if value not in values:
                raise KeyError(f"{self.name} has no {name}={labels[name]!r}")
            at = at * len(values) + values.index(value)
        return at


@dataclass(frozen=True)
class Histogram:
    """How values are spread. buckets: their upper bounds, growing; one for all that is larger comes by itself."""

    name: str
    help: str
    buckets: Sequence[float]

    @property
    def cells(self) -> int:
        return len(self.buckets) + 2  # the larger, and the sum

    def cell(self, value: float) -> int:
        return next((at for at, bound in enumerate(self.buckets) if value <= bound), len(self.buckets))


Family = Counter | Histogram


class SharedCounters:
    """The memory: a row of cells for each writer, and the families that the cells belong to."""

    def __init__(self, families: Sequence[Family], rows: int) -> None:
        self.families = tuple(families)
        self.rows = rows
        self._starts: dict[str, int] = {}
        at = 0
        for family in self.families:
            self._starts[family.name] = at
            at += family.cells
        self._columns = at
        self._memory = mmap.mmap(-1, rows * at * 8)  # zeros, shared with every fork, page by page as it is written
        self._cells = memoryview(self._memory).cast("d")
        self._lock = threading.Lock()  # of the threads of one process, which write one row

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
        """The cells, added up over all rows."""
        import numpy as np  # here, so that the master, which never adds up, forks without its threads

        table = np.frombuffer(self._memory).reshape(self.rows, self._columns)
        start = self._starts[family.name]
        return list(map(float, table[:, start : start + family.cells].sum(axis=0)))

    def _add(self, row: int, column: int, amount: float) -> None:
        with self._lock:
            self._cells[row * self._columns + column] += amount
