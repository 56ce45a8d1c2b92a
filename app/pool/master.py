"""Supervision in the gunicorn master: assigns workers, records how they ended, and delays restarts after crashes."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..access.shared_counts import SharedCounts
from ..observability.metrics import RESTARTS, count_lost, new_counters
from ..observability.shared_counters import SharedCounters
from .assignment import WorkerAssignment
from .worker_registry import PENDING_PID, WorkerRecord, WorkerRegistry, restart_delay

_log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5  # before a crashed worker is started again; doubled after each further crash
MAX_DELAY_SECONDS = 300.0
MAX_BOOT_DELAY_SECONDS = 5.0  # if its application was not loaded
SAME_FAILURES = 3  # consecutive equal failures of a worker that was never ready: the next start would fail too
IMPORTING = "importing the application"  # the `doing` of a worker whose imports failed
STABLE_SECONDS = 60.0  # a crash after being ready for so long is the first of a row again
_MAX_FOLDER_LENGTH = 64  # characters; the path of a socket has 107 bytes at most
_WAIT_SECONDS = 0.2  # between two checks of a waiting worker


@dataclass(frozen=True)
class WorkerContext:
    """A process's part in the pool.

    index: of its record in the registry and its row in the counters.
    key_counts: what API keys have used.
    sockets: the folder of the workers' sockets; None if there is only one worker.
    """

    assignment: WorkerAssignment
    registry: WorkerRegistry
    counters: SharedCounters
    index: int
    key_counts: SharedCounts
    sockets: Path | None = None


@dataclass(frozen=True)
class _BootFailures:
    """Consecutive crashes of one worker before it was ready.

    reason: of the last one. times: how often in a row it was this reason. booted: its application was loaded.
    permanent: another start cannot succeed.
    """

    reason: str
    times: int
    booted: bool
    permanent: bool

    def __str__(self) -> str:
        return self.reason if self.times == 1 else f"{self.reason}, {self.times} times in a row"


def standalone_context(assignment: WorkerAssignment) -> WorkerContext:
    """The context of a process without a master, with a registry of its own."""
    return WorkerContext(assignment, WorkerRegistry([assignment]), new_counters(1), 0, SharedCounts())


_current_context: WorkerContext | None = None


def current_context() -> WorkerContext:
    """The context of this process; a standalone one, on a CPU, if it has not joined a master's pool."""
    return _current_context or standalone_context(WorkerAssignment())


class Master:
    """Created once, before the first fork, and kept through reloads: all generations of workers share its registry and
    its counters."""

    def __init__(self, assignments: Sequence[WorkerAssignment]) -> None:
        self.assignments = tuple(assignments)
        self.registry = WorkerRegistry(assignments)
        self.counters = new_counters(len(assignments))
        self.key_counts = SharedCounts()
        self._exited: set[int] = set()  # indices whose last worker has exited
        self._boot_failures: dict[int, _BootFailures] = {}  # by index
        self._were_ready: set[int] = set()  # indices of workers that have been ready
        self.sockets: Path | None = None

    def open(self) -> None:
        """Create the folder of the sockets, with mode 700. A single worker needs none."""
        if len(self.assignments) > 1 and self.sockets is None:
            folder = tempfile.gettempdir()
            if len(folder) > _MAX_FOLDER_LENGTH:
                folder = "/tmp"
            self.sockets = Path(tempfile.mkdtemp(prefix="csm-serve-", dir=folder))

    def close(self) -> None:
        if self.sockets is not None:
            shutil.rmtree(self.sockets, ignore_errors=True)

    # ---- before and after a fork, in the master

    def assign(self) -> int | None:
        """The index of the worker that is about to be forked. None: all are taken, and it is a spare."""
        index = self.registry.claim(PENDING_PID)
        if index in self._exited:
            self._exited.remove(index)
            self.counters.add(index, RESTARTS)
        return index

    def record_exit(self, index: int | None, pid: int, exit_reason: str = "its process died") -> None:
        """Clear the record of a worker that has exited. If it was not draining it has crashed: delay its restart.

        exit_reason: used if the worker has not recorded an error itself.
        """
        records = self.registry.records()
        if index is None or records[index].pid not in (pid, 0):  # a spare, which may have got an index since
            index = next((at for at, each in enumerate(records) if each.pid == pid), None)
        if index is None:
            return
        count_lost(self.counters, index)  # before the next worker writes to the row
        self._exited.add(index)
        record, now = records[index], time.monotonic()
        if record.ready_since > 0:
            self._were_ready.add(index)
            self._boot_failures.pop(index, None)
        if record.state == "draining":
            self.registry.vacate(index)
            return
        if now < record.retry_at and record.state in ("restarting", "failed"):  # still delayed: not a further crash
            self.registry.vacate(index, failures=record.failures, retry_at=record.retry_at, error=record.error)
            _log.warning("worker %s ended (pid %d) before it loaded", record.worker_id, pid)
            return
        stable = record.ready_since > 0 and now - record.ready_since >= STABLE_SECONDS
        failures = 1 if stable else record.failures + 1
        error = record.error or (
            f"{exit_reason} while {record.doing}" if record.doing and not record.ready_since else exit_reason
        )
        booted = record.state != "starting"
        if record.ready_since == 0:
            self._boot_failures[index] = self._count_failure(index, error, booted, record.doing == IMPORTING)
        max_delay = MAX_DELAY_SECONDS if booted else MAX_BOOT_DELAY_SECONDS
        delay = min(FIRST_DELAY_SECONDS * 2 ** (failures - 1), max_delay)
        if booted and not record.has_engine:
            delay = 0.0  # it loads nothing, and its clients wait
        self.registry.vacate(index, failures=failures, retry_at=now + delay, error=error)
        if self.fatal_error() is not None:
            return  # reported when the service ends
        _log.error(
            "worker %s (pid %d) crashed (%s), %d in a row: it loads again in %g seconds",
            record.worker_id,
            pid,
            error,
            failures,
            delay,
        )

    def fatal_error(self) -> str | None:
        """Why the service cannot start: no worker with an engine, or none that serves HTTP, can start.

        None while any of them is or was ready, or may still become ready. A worker whose engine cannot load has not
        crashed: it runs and reports the reason in /health.
        """
        records = dict(enumerate(self.registry.records()))
        engines = {index: each for index, each in records.items() if each.has_engine}
        http = {index: each for index, each in records.items() if each.serves_http}
        return self._fatal_error(engines) or self._fatal_error(http)

    def _fatal_error(self, records: Mapping[int, WorkerRecord]) -> str | None:
        """Why none of these workers can start; None if any is or was ready, or may still become ready."""
        if self._were_ready & records.keys() or any(each.ready_since > 0 for each in records.values()):
            return None
        failures = {index: self._boot_failures.get(index) for index in records}
        for index, failure in failures.items():
            if not failure.permanent if failure is not None else records[index].state != "empty":
                return None
        return "; ".join(dict.fromkeys(str(each) for each in failures.values() if each is not None)) or None

    def _count_failure(self, index: int, reason: str, booted: bool, importing: bool) -> _BootFailures:
        last = self._boot_failures.get(index)
        same = last is not None and _without_numbers(last.reason) == _without_numbers(reason)
        times = last.times + 1 if last is not None and same else 1
        return _BootFailures(reason, times, booted, permanent=importing or times >= SAME_FAILURES)

    # ---- after the fork, in the worker

    def join(self, index: int | None, worker: Any) -> WorkerContext:
        """Make this process the worker of an assigned index. A spare (None) waits for a free one, perhaps for ever.

        A waiting spare serves nothing: two models on one GPU would not work. Spares exist for a while after SIGHUP,
        until the workers of the last generation have exited, and permanently after SIGTTIN.
        """
        global _current_context  # noqa: PLW0603  set once in each process
        if index is None:
            worker.init_signals()  # the master's handlers are still installed, and do nothing here
            _log.info("all %d workers are running: this spare waits for one to exit", len(self.assignments))
            while (index := self.registry.claim(os.getpid())) is None:
                _wait(worker)
        else:
            self.registry.set_pid(index, os.getpid())
            self._wait_to_boot(index, worker)
        _current_context = WorkerContext(
            self.assignments[index], self.registry, self.counters, index, self.key_counts, self.sockets
        )
        return _current_context

    def _wait_to_boot(self, index: int, worker: Any) -> None:
        """Wait out the restart delay if the last worker did not load its application: gunicorn forks immediately.

        If it did, the application itself waits, and answers /health meanwhile.
        """
        failures = self._boot_failures.get(index)
        if failures is None or failures.booted:
            return
        worker.init_signals()
        while (delay := restart_delay(self.registry.record(index))) is not None:
            self.registry.update(index, delay.state)
            _wait(worker)
        self.registry.update(index, "starting", error="")


def _wait(worker: Any) -> None:
    """Wait for a moment: send gunicorn's heartbeat, and exit if the master is gone."""
    worker.notify()
    if os.getppid() != worker.ppid:
        signal.raise_signal(signal.SIGTERM)
    time.sleep(_WAIT_SECONDS)


def _without_numbers(reason: str) -> str:
    """Equal for reasons that differ in seconds, bytes or process ids only."""
    return re.sub(r"\d+", "#", reason)


_master: Master | None = None


def current_master(assignments: Sequence[WorkerAssignment]) -> Master:
    """The master of this process. gunicorn reloads its configuration on SIGHUP; the registry is kept."""
    global _master  # noqa: PLW0603  created once and kept
    if _master is None:
        _master = Master(assignments)
    elif _master.assignments != tuple(assignments):
        _log.warning("WORKERS or the visible GPUs have changed: restart the service to apply that")
    return _master
