"""What the gunicorn master does for the pool: it gives each worker its place, and notes how it ended."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..observability.metrics import RESTARTS, count_lost, new_counters
from ..observability.shared_counters import SharedCounters
from .assignment import WorkerAssignment
from .worker_registry import PENDING_PID, WorkerRegistry, restart_delay

_log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5  # before a worker that crashed is started again; twice as long after each more
LONGEST_PAUSE_SECONDS = 300.0
LONGEST_BOOT_PAUSE_SECONDS = 5.0  # where it did not come as far as its application
SAME_FAILURES = 3  # in a row, of a worker that was never ready: its next start would end as they did
IMPORTING = "importing the application"  # what a worker says that it was doing
STEADY_SECONDS = 60.0  # a worker that was ready for so long has not crashed "in a row"
_LONGEST_FOLDER = 64  # the path of a socket has 107 bytes at most
_SPARE_LOOKS_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class WorkerContext:
    """Where a process stands in the pool.

    index: its place on the board, and its row in the tally.
    sockets: the folder of the workers' sockets; None for one that is alone.
    """

    place: WorkerAssignment
    registry: WorkerRegistry
    counters: SharedCounters
    index: int
    sockets: Path | None = None


@dataclass(frozen=True)
class _Failing:
    """The crashes in a row, before it was ready, of the workers in one place.

    reason: of the last one. times: how often in a row it was this one. booted: its application had been loaded.
    for_good: another start cannot end better.
    """

    reason: str
    times: int
    booted: bool
    for_good: bool

    def __str__(self) -> str:
        return self.reason if self.times == 1 else f"{self.reason}, {self.times} times in a row"


def alone(place: WorkerAssignment) -> WorkerContext:
    """The seat of a process without a master: a board of its own."""
    return WorkerContext(place, WorkerRegistry([place]), new_counters(1), 0)


_here: WorkerContext | None = None


def here() -> WorkerContext:
    """The seat of this process; alone, on a CPU, if no master has given it one."""
    return _here or alone(WorkerAssignment())


class Master:
    """Made once, before the first fork, and kept through reloads: the workers of all generations share its board and
    its tally."""

    def __init__(self, places: Sequence[WorkerAssignment]) -> None:
        self.places = tuple(places)
        self.registry = WorkerRegistry(places)
        self.counters = new_counters(len(places))
        self._left: set[int] = set()  # places that a worker has been in, and is no more
        self._failing: dict[int, _Failing] = {}  # by place
        self._was_ready = False  # some worker was, at some time
        self.sockets: Path | None = None

    def open(self) -> None:
        """Make the folder of the sockets, readable by nobody else. One worker needs none."""
        if len(self.places) > 1 and self.sockets is None:
            folder = tempfile.gettempdir()
            if len(folder) > _LONGEST_FOLDER:
                folder = "/tmp"
            self.sockets = Path(tempfile.mkdtemp(prefix="csm-serve-", dir=folder))

    def close(self) -> None:
        if self.sockets is not None:
            shutil.rmtree(self.sockets, ignore_errors=True)

    # ---- before and after a fork, in the master

    def assign(self) -> int | None:
        """A place for the worker that is about to be forked. None: all are taken, and it is a spare."""
        index = self.registry.claim(PENDING_PID)
        if index in self._left:
            self._left.remove(index)
            self.counters.add(index, RESTARTS)
        return index

    def bury(self, index: int | None, pid: int, ending: str = "its process died") -> None:
        """A worker has ended. One that was not on its way out has crashed, and its successor has to wait.

        ending: how, for people, where it has not said why itself.
        """
        records = self.registry.records()
        if index is None or records[index].pid not in (pid, 0):  # a spare: it may have found a place since
            index = next((at for at, each in enumerate(records) if each.pid == pid), None)
        if index is None:
            return
        count_lost(self.counters, index)  # before anybody else may write that row
        self._left.add(index)
        record, now = records[index], time.monotonic()
        if record.ready_since > 0:
            self._was_ready = True
            self._failing.pop(index, None)
        if record.state == "draining":
            self.registry.vacate(index)
            return
        if now < record.retry_at and record.state in ("restarting", "failed"):  # it waited: this is no further crash
            self.registry.vacate(index, failures=record.failures, retry_at=record.retry_at, error=record.error)
            _log.warning("worker %s ended (pid %d) before it loaded", record.worker_id, pid)
            return
        steady = record.ready_since > 0 and now - record.ready_since >= STEADY_SECONDS
        failures = 1 if steady else record.failures + 1
        error = record.error or (
            f"{ending} while {record.doing}" if record.doing and not record.ready_since else ending
        )
        booted = record.state != "starting"
        if record.ready_since == 0:
            self._failing[index] = self._one_more(index, error, booted, record.doing == IMPORTING)
        longest = LONGEST_PAUSE_SECONDS if booted else LONGEST_BOOT_PAUSE_SECONDS
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), longest)
        self.registry.vacate(index, failures=failures, retry_at=now + pause, error=error)
        if self.hopeless() is not None:
            return  # it is told as what ends the service
        _log.error(
            "worker %s (pid %d) has crashed (%s), for the %d. time in a row: it loads again in %g seconds",
            record.worker_id,
            pid,
            error,
            failures,
            pause,
        )

    def hopeless(self) -> str | None:
        """Why the whole service cannot start; None while a worker is ready or was, or one may still come to be.

        One whose engine cannot load has not crashed: it is there to tell why, in /health.
        """
        records = self.registry.records()
        if self._was_ready or not self._failing or any(each.ready_since > 0 for each in records):
            return None
        for index, record in enumerate(records):
            failing = self._failing.get(index)
            if not failing.for_good if failing is not None else record.state != "empty":
                return None
        return "; ".join(dict.fromkeys(map(str, self._failing.values())))

    def _one_more(self, index: int, reason: str, booted: bool, importing: bool) -> _Failing:
        before = self._failing.get(index)
        again = before is not None and _without_numbers(before.reason) == _without_numbers(reason)
        times = before.times + 1 if before is not None and again else 1
        return _Failing(reason, times, booted, for_good=importing or times >= SAME_FAILURES)

    # ---- behind the fork, in the worker

    def seat(self, index: int | None, worker: Any) -> WorkerContext:
        """Let this process take the place that was assigned. A spare waits until one is free, which may be for ever.

        It waits without serving anything: of two models on one GPU neither would work. Spares are there for a
        while after SIGHUP, until the workers before them have left, and for good after SIGTTIN.
        """
        global _here  # noqa: PLW0603  a process has one seat, and is told it once
        if index is None:
            worker.init_signals()  # those of the master are still in force: nobody would hear them here
            _log.info("all %d places are taken: this worker waits for one", len(self.places))
            while (index := self.registry.claim(os.getpid())) is None:
                _sit(worker)
        else:
            self.registry.set_pid(index, os.getpid())
            self._wait_to_boot(index, worker)
        _here = WorkerContext(self.places[index], self.registry, self.counters, index, self.sockets)
        return _here

    def _wait_to_boot(self, index: int, worker: Any) -> None:
        """Keep the pause that is due where the last worker did not come as far as its application; gunicorn forks at
        once. An application that was loaded keeps it itself, and answers /health meanwhile."""
        failing = self._failing.get(index)
        if failing is None or failing.booted:
            return
        worker.init_signals()
        while (pause := restart_delay(self.registry.record(index))) is not None:
            self.registry.update(index, pause.state)
            _sit(worker)
        self.registry.update(index, "starting", error="")


def _sit(worker: Any) -> None:
    """A moment of waiting, in which the master hears of this worker, and it leaves with the master."""
    worker.notify()
    if os.getppid() != worker.ppid:
        signal.raise_signal(signal.SIGTERM)
    time.sleep(_SPARE_LOOKS_EVERY)


def _without_numbers(reason: str) -> str:
    """The same for failures that differ in seconds, bytes or process ids only."""
    return re.sub(r"\d+", "#", reason)


_master: Master | None = None


def current_master(places: Sequence[WorkerAssignment]) -> Master:
    """The one of this process. gunicorn reads its configuration again on SIGHUP; the board stays."""
    global _master  # noqa: PLW0603  a process has one, and keeps it
    if _master is None:
        _master = Master(places)
    elif _master.places != tuple(places):
        _log.warning("WORKERS or the visible GPUs have changed: that takes effect when the service is started anew")
    return _master
