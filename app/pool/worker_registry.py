"""Worker registry in shared memory: one record per worker (pid, state, load, heartbeat) and a table of permits.

The master creates it before it forks. Each record is written by its worker, and by the master once that worker is
dead. The table counts the permits that each worker holds on every other one.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..observability.components import COMPONENT_STATES, COMPONENTS, ComponentName, ComponentStatus
from ..shared_lock import SharedLock
from .assignment import WorkerAssignment
from .placement import Candidate, choose

State = Literal["empty", "starting", "restarting", "loading", "ready", "draining", "failed"]
STATES: tuple[State, ...] = ("empty", "starting", "restarting", "loading", "ready", "draining", "failed")

STALE_SECONDS = 5.0  # a worker whose heartbeat is older is given no requests
LATE_SECONDS = 1.5  # a worker whose heartbeat is older may have hung
FAILED_AFTER = 4  # consecutive crashes after which a worker counts as failed; it is still restarted
PENDING_PID = -1  # the master is about to fork this worker

_COMPONENT = struct.Struct("=B255s")
_RECORD = struct.Struct(f"=iiiiiidddd32s64s64s256s{len(COMPONENTS) * _COMPONENT.size}s")
_COUNTER = struct.Struct("=q")


@dataclass(frozen=True)
class WorkerRecord:
    """A snapshot of one worker.

    worker_id: sent as X-Worker-ID. unit: its key in /health, such as "gpu_0".
    gpu: as in CUDA_VISIBLE_DEVICES; None on a CPU.
    has_engine: it speaks; without an engine it serves HTTP for the others and has no slots.
    serves_http: it accepts connections of clients.
    pid: 0 if it has no process.
    state: empty (no process), starting (the application is not loaded yet), restarting (waits after a crash),
        loading, ready, draining (takes no new requests), failed.
    engine: its name once it is ready; "" before. model: the name of the model.
    progress: of loading, from 0 to 1. doing: the current step. error: why it failed; "" if it did not.
    active: slots in use. capacity: slots in all; 0 until it is ready. queued: requests that wait for a slot.
    load: permits held or waited for, counted by the workers that reserved them; placement uses it.
    heartbeat: `time.monotonic()` of the last update; the clock is the same for all processes of a machine.
    failures: consecutive crashes. retry_at: `time.monotonic()` before which its engine is not started again.
    ready_since: `time.monotonic()` when it became ready; 0 before.
    components: state of the components beside its engine.
    """

    worker_id: str
    unit: str
    gpu: str | None
    has_engine: bool
    serves_http: bool
    pid: int
    state: State
    engine: str
    model: str
    progress: float
    doing: str
    error: str
    active: int
    capacity: int
    queued: int
    load: int
    heartbeat: float
    failures: int
    retry_at: float
    ready_since: float
    components: Mapping[ComponentName, ComponentStatus]


@dataclass(frozen=True)
class RestartDelay:
    """A wait before loading, after a crash. state: shown meanwhile. error: of the crash."""

    seconds: float
    state: Literal["restarting", "failed"]
    error: str


def restart_delay(record: WorkerRecord) -> RestartDelay | None:
    """How long the new worker of a record waits before it loads a model; None if the last one did not crash."""
    seconds = record.retry_at - time.monotonic()
    if seconds <= 0:
        return None
    return RestartDelay(seconds, "failed" if record.failures >= FAILED_AFTER else "restarting", record.error)


@dataclass
class _Fields:
    """The packed fields of a record, in this order."""

    pid: int = 0
    state: int = 0
    capacity: int = 0
    active: int = 0
    queued: int = 0
    failures: int = 0
    heartbeat: float = 0.0
    retry_at: float = 0.0
    ready_since: float = 0.0
    progress: float = 0.0
    engine: bytes = b""
    model: bytes = b""
    doing: bytes = b""
    error: bytes = b""
    components: bytes = b""


class WorkerRegistry:
    """Records and permits of all workers. Every method is safe to call from any process and any thread.

    One lock guards everything. It is held for microseconds and never while awaiting. It is a kernel lock on a file,
    so the kernel frees it when a process that holds it dies.
    """

    def __init__(self, assignments: Sequence[WorkerAssignment]) -> None:
        self.assignments = tuple(assignments)
        self._size = len(self.assignments)
        self._counter_at = self._size * _RECORD.size  # counts reservations
        self._turns_at = self._counter_at + _COUNTER.size  # for each worker: the count when it was last chosen
        self._loads_at = self._turns_at + self._size * _COUNTER.size
        self._memory = mmap.mmap(-1, self._loads_at + 4 * self._size**2)  # shared with every fork
        self._loads = memoryview(self._memory)[self._loads_at :].cast("i")  # (holders * targets)
        self._lock = SharedLock("registry")

    def __len__(self) -> int:
        return self._size

    # ---- records

    def records(self) -> list[WorkerRecord]:
        """All workers, in order of their index."""
        with self._lock.held():
            return [self._record(index) for index in range(self._size)]

    def engines(self) -> list[WorkerRecord]:
        """The workers with an engine, in order of their index."""
        return [each for each in self.records() if each.has_engine]

    def pids(self) -> list[int]:
        """The process of each worker, in order of their index; 0 for none."""
        with self._lock.held():
            return [max(self._read(index).pid, 0) for index in range(self._size)]

    def record(self, index: int) -> WorkerRecord:
        with self._lock.held():
            return self._record(index)

    def claim(self, pid: int) -> int | None:
        """Take the lowest index without a process; None if there is none. Earlier crashes stay in the record."""
        with self._lock.held():
            for index in range(self._size):
                before = self._read(index)
                if before.pid == 0:
                    self._clear_load(index)
                    fields = _Fields(pid=pid, state=STATES.index("starting"), heartbeat=time.monotonic())
                    fields.failures, fields.retry_at, fields.error = before.failures, before.retry_at, before.error
                    self._write(index, fields)
                    return index
        return None

    def set_pid(self, index: int, pid: int) -> None:
        """Record the process of an index that was claimed with PENDING_PID."""
        with self._lock.held():
            fields = self._read(index)
            fields.pid = pid
            self._write(index, fields)

    def vacate(self, index: int, *, failures: int = 0, retry_at: float = 0.0, error: str = "") -> None:
        """Clear the record of a worker that is gone, and the permits that it held on others."""
        with self._lock.held():
            self._clear_load(index)
            self._write(index, _Fields(failures=failures, retry_at=retry_at, error=error.encode()))

    def update(
        self,
        index: int,
        state: State,
        *,
        progress: float = 0.0,
        doing: str = "",
        error: str | None = None,
        engine: str = "",
        model: str = "",
        capacity: int = 0,
        active: int = 0,
        queued: int = 0,
        components: Mapping[ComponentName, ComponentStatus] | None = None,
    ) -> None:
        """Write a worker's record and its heartbeat. error, components: None keeps the last value."""
        with self._lock.held():
            fields = self._read(index)
            was_ready = STATES[fields.state] in ("ready", "draining")
            if state == "ready" and not was_ready:
                fields.ready_since = time.monotonic()
            fields.state = STATES.index(state)
            fields.progress, fields.heartbeat = progress, time.monotonic()
            fields.capacity, fields.active, fields.queued = capacity, active, queued
            fields.doing, fields.engine, fields.model = doing.encode(), engine.encode(), model.encode()
            if error is not None:
                fields.error = error.encode()
            if components is not None:
                fields.components = b"".join(
                    _COMPONENT.pack(COMPONENT_STATES.index(each.state), each.error.encode())
                    for each in map(components.__getitem__, COMPONENTS)
                )
            self._write(index, fields)

    def is_silent(self, index: int) -> bool:
        """Whether a worker's heartbeat is too old: it hangs, or its process is stopped."""
        return time.monotonic() - self.record(index).heartbeat >= STALE_SECONDS

    # ---- permits

    def reserve(
        self, holder: int, permits: int, excluded: Collection[int] = (), *, instead_of: int | None = None
    ) -> int | None:
        """Choose a worker and count the permits on it from now on; None if no worker can take them.

        holder: the index of the worker that holds the permits. excluded: indices that have refused already.
        instead_of: index of a worker on which they are reserved and that has not admitted them. Then only a worker with
            that many free slots is chosen, and only one that they make no fuller than `instead_of` is: that one may
            just be slow. If its heartbeat is late, any free one will do.
        """
        now = time.monotonic()
        with self._lock.held():
            candidates = [
                Candidate(index, self._load(index), fields.capacity, self._turn(index))
                for index in range(self._size)
                if self.assignments[index].has_engine
                and index not in excluded
                and STATES[(fields := self._read(index)).state] == "ready"
                and (index == holder or now - fields.heartbeat < STALE_SECONDS)
            ]
            if instead_of is not None:
                current = self._read(instead_of)
                if now - current.heartbeat < LATE_SECONDS:
                    limit = self._load(instead_of) / max(current.capacity, 1)
                    candidates = [each for each in candidates if (each.load + permits) / max(each.capacity, 1) <= limit]
            chosen = choose(candidates, permits, only_free=instead_of is not None)
            if chosen is not None:
                self._loads[holder * self._size + chosen] += permits
                (turn,) = _COUNTER.unpack_from(self._memory, self._counter_at)
                _COUNTER.pack_into(self._memory, self._counter_at, turn + 1)
                _COUNTER.pack_into(self._memory, self._turns_at + chosen * _COUNTER.size, turn + 1)
            return chosen

    def release(self, holder: int, target: int, permits: int) -> None:
        """Give back reserved permits."""
        with self._lock.held():
            at = holder * self._size + target
            self._loads[at] = max(self._loads[at] - permits, 0)  # cleared already if the holder was vacated

    def _turn(self, index: int) -> int:
        (turn,) = _COUNTER.unpack_from(self._memory, self._turns_at + index * _COUNTER.size)
        return int(turn)

    def _load(self, target: int) -> int:
        return sum(self._loads[target :: self._size])

    def _clear_load(self, holder: int) -> None:
        for target in range(self._size):
            self._loads[holder * self._size + target] = 0

    # ---- memory

    def _read(self, index: int) -> _Fields:
        return _Fields(*_RECORD.unpack_from(self._memory, index * _RECORD.size))

    def _write(self, index: int, fields: _Fields) -> None:
        values = (getattr(fields, name) for name in _FIELD_NAMES)
        _RECORD.pack_into(self._memory, index * _RECORD.size, *values)

    def _record(self, index: int) -> WorkerRecord:
        assignment, fields = self.assignments[index], self._read(index)
        return WorkerRecord(
            worker_id=assignment.worker_id,
            unit=assignment.unit,
            gpu=assignment.gpu,
            has_engine=assignment.has_engine,
            serves_http=assignment.serves_http,
            pid=max(fields.pid, 0),
            state=STATES[fields.state],
            engine=_text(fields.engine),
            model=_text(fields.model),
            progress=fields.progress,
            doing=_text(fields.doing),
            error=_text(fields.error),
            active=fields.active,
            capacity=fields.capacity,
            queued=fields.queued,
            load=self._load(index),
            heartbeat=fields.heartbeat,
            failures=fields.failures,
            retry_at=fields.retry_at,
            ready_since=fields.ready_since,
            components={
                name: ComponentStatus(COMPONENT_STATES[state], _text(error))
                for name, (state, error) in zip(COMPONENTS, _COMPONENT.iter_unpack(fields.components), strict=True)
            },
        )


_FIELD_NAMES = tuple(_Fields.__dataclass_fields__)


def _text(raw: bytes) -> str:
    """The text, cut where the field was too short."""
    return raw.rstrip(b"\0").decode(errors="ignore")
