"""LoadGenerator: distributes the clients of a trial over processes, so that measuring is not the bottleneck."""

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

CLIENTS_PER_PROCESS = 128  # one core reads about this many streams at several times real time
_LEAD_SECONDS = 0.3  # lets every process receive its task before the trial starts
_POLL_SECONDS = 0.25
_START_SECONDS = 60.0  # timeout for starting the processes

ProgressCallback = Callable[
    [float, int, int, int], None
]  # (seconds since the start, active, ended, unanswered requests)

_counts: MutableSequence[int] = []  # in a client process: live counters of all processes
_all_started: Barrier | None = None


def _init_process(counts: MutableSequence[int], all_started: Barrier) -> None:
    global _counts, _all_started  # shared memory reaches executor processes only through the initializer
    _counts, _all_started = counts, all_started


def _wait_for_all() -> None:
    assert _all_started is not None
    _all_started.wait(_START_SECONDS)


def _run_share(trial: Trial, index: int, shares: int, start: float) -> ClientResults:
    return run_clients(trial, index, shares, start, _counts)


class LoadGenerator:
    """Runs trials in client processes. processes: their maximum; a trial uses as many as its load needs."""

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
        for started in [self._executor.submit(_wait_for_all) for _ in range(self._processes)]:
            started.result()  # each task waits for all others, so every process takes exactly one

    def __enter__(self) -> LoadGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def run(self, trial: Trial, on_progress: ProgressCallback) -> ClientResults:
        """Run a trial and collect its results. on_progress: called a few times per second."""
        concurrency = trial.load * (max(trial.track.seconds, 1.0) if trial.loop == "open" else 1)
        shares = min(self._processes, max(1, round(concurrency / CLIENTS_PER_PROCESS)))
        self._counts[:] = [0] * len(self._counts)
        start = time.monotonic() + _LEAD_SECONDS
        futures = [self._executor.submit(_run_share, trial, index, shares, start) for index in range(shares)]
        pending = set(futures)
        while pending:
            _, pending = wait(pending, timeout=_POLL_SECONDS)
            on_progress(time.monotonic() - start, *(sum(self._counts[n::COLUMNS]) for n in (ACTIVE, ENDED, UNANSWERED)))
        parts = [future.result() for future in futures]
        return ClientResults(
            [request for part in parts for request in part.requests],
            sum(part.window_samples for part in parts),
            sum(part.cpu_seconds for part in parts),
        )
