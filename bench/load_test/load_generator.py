"""All listeners: processes that share the load, so that the one who measures is never the bottleneck."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, MutableSequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing.synchronize import Barrier
from types import TracebackType

from engine import MachineLimits

from .client_process import ACTIVE, COLUMNS, ENDED, UNANSWERED, ClientResults, run_clients
from .trial import Trial

LISTENERS_PER_PROCESS = 128  # one core reads about that many streams at several times real time
_LEAD_SECONDS = 0.3  # for every process to have its share in hand when the trial starts
_POLL_SECONDS = 0.25
_START_SECONDS = 60.0  # for the processes to be there

ProgressCallback = Callable[
    [float, int, int, int], None
]  # seconds since the start; speaking, ended and unanswered requests

_counts: MutableSequence[int] = []  # in a listening process: the live counts of all of them
_all_here: Barrier | None = None


def _init_process(counts: MutableSequence[int], all_here: Barrier) -> None:
    global _counts, _all_here  # an executor hands shared memory to its processes in no other way
    _counts, _all_here = counts, all_here


def _wait_for_all() -> None:
    assert _all_here is not None
    _all_here.wait(_START_SECONDS)


def _run_share(trial: Trial, index: int, shares: int, starts: float) -> ClientResults:
    return run_clients(trial, index, shares, starts, _counts)


class LoadGenerator:
    """processes: at most so many; each trial takes as many of them as its load needs."""

    def __init__(self, processes: int | None = None) -> None:
        self._processes = processes or max(1, MachineLimits().cores().threads() - 1)
        context = multiprocessing.get_context("spawn")
        self._counts = context.Array("q", COLUMNS * self._processes, lock=False)
        self._executor = ProcessPoolExecutor(
            self._processes,
            mp_context=context,
            initializer=_init_process,
            initargs=(self._counts, context.Barrier(self._processes)),
        )
        for meeting in [self._executor.submit(_wait_for_all) for _ in range(self._processes)]:
            meeting.result()  # each waits for all the others, so none takes two

    def __enter__(self) -> LoadGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def run(self, trial: Trial, watch: ProgressCallback) -> ClientResults:
        """Hold the load and listen. watch: told a few times a second how it goes."""
        at_once = trial.load * (1 if trial.loop == "closed" else max(trial.track.seconds, 1.0))
        shares = min(self._processes, max(1, round(at_once / LISTENERS_PER_PROCESS)))
        self._counts[:] = [0] * len(self._counts)
        starts = time.monotonic() + _LEAD_SECONDS
        futures = [self._executor.submit(_run_share, trial, index, shares, starts) for index in range(shares)]
        pending = set(futures)
        while pending:
            _, pending = wait(pending, timeout=_POLL_SECONDS)
            watch(time.monotonic() - starts, *(sum(self._counts[n::COLUMNS]) for n in (ACTIVE, ENDED, UNANSWERED)))
        parts = [future.result() for future in futures]
        return ClientResults(
            [outcome for part in parts for outcome in part.outcomes],
            sum(part.window_samples for part in parts),
            sum(part.processor for part in parts),
        )
