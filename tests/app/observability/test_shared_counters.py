from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observability.shared_counters import OTHER, Counter, Histogram, SharedCounters

ROOT = Path(__file__).parents[3]
PLAIN = Counter("plain_total", "")
COLOURED = Counter("coloured_total", "", {"colour": ("red", "blue", OTHER), "size": ("s", "l")})
SPREAD = Histogram("spread_seconds", "", (0.1, 1.0))


def counters(rows: int = 1) -> SharedCounters:
    return SharedCounters((PLAIN, COLOURED, SPREAD), rows)


def test_every_combination_of_labels_has_its_own_cell() -> None:
    counts = counters()
    for amount, (colour, size) in enumerate(COLOURED.combinations, start=1):
        counts.add(0, COLOURED, amount, colour=colour, size=size)
    assert counts.sums(COLOURED) == [1, 2, 3, 4, 5, 6]
    assert counts.sums(PLAIN) == [0]
    assert sum(counts.sums(SPREAD)) == 0


def test_an_unlisted_label_value_is_other_or_an_error() -> None:
    assert COLOURED.cell({"colour": "green", "size": "l"}) == COLOURED.cell({"colour": OTHER, "size": "l"})
    with pytest.raises(KeyError, match="no size='xl'"):
        COLOURED.cell({"colour": "red", "size": "xl"})


def test_a_bucket_includes_its_bound() -> None:
    counts = counters()
    for value in (0.05, 0.1, 0.5, 1.0, 4.0):
        counts.observe(0, SPREAD, value)
    assert counts.sums(SPREAD) == [2, 2, 1, pytest.approx(5.65)]


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1e6)), max_size=30))
def test_sums_are_over_all_rows(added: list[tuple[int, float]]) -> None:
    counts = counters(rows=3)
    for row, amount in added:
        counts.add(row, PLAIN, amount)
    assert counts.sums(PLAIN) == [pytest.approx(sum(amount for _, amount in added))]
    assert [counts.of_row(row, PLAIN)[0] for row in range(3)] == [
        pytest.approx(sum(amount for at, amount in added if at == row)) for row in range(3)
    ]


def test_counts_of_a_killed_process_are_kept_and_continued() -> None:
    program = """
import os, signal
from app.observability.shared_counters import Counter, SharedCounters

counter = Counter("plain_total", "")
counters = SharedCounters((counter,), 2)
counters.add(0, counter, 1)
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        counters.add(1, counter, 10)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
print(counters.sums(counter))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True
    )
    assert ran.stdout.strip() == "[21.0]"


def test_the_master_imports_nothing_that_starts_threads() -> None:
    program = """
import sys
from app.observability.metrics import new_counters
new_counters(8)
print({"numpy", "av", "engine"} & sys.modules.keys())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True
    )
    assert ran.stdout.strip() == "set()"
