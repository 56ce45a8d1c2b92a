"""What all processes of the service know of each other: a board in shared memory.

The master makes it before it forks. It has a record for each place, written by the worker in that place (and by
the master once that worker is dead), and a table of permits: how many a worker has taken on every other one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ..observability.components import COMPONENT_STATES, COMPONENTS, ComponentName, ComponentStatus
from .placement import Candidate, choose

State = Literal["empty", "starting", "restarting", "loading", "ready", "draining", "failed"]
STATES: tuple[State, ...] = ("empty", "starting", "restarting", "loading", "ready", "draining", "failed")

STALE_SECONDS = 5.0  # a worker that has not been heard of for so long is given no speech
FAILED_AFTER = 4  # crashes in a row: a place counts as failed then, though it is tried on
COMING = -1  # as a pid: the master is about to fork the worker of this place

_PART = struct.Struct("=B255s")
_RECORD = struct.Struct(f"=iiiiiidddd32s64s64s256s{len(COMPONENTS) * _PART.size}s")
_COUNTER = struct.Struct("=q")


@dataclass(frozen=True)
class WorkerRecord:
    """What is known of one place.

    worker_id: what X-Worker-ID says of speech that it gives. unit: what /health calls it, as in "gpu_0".
    gpu: as CUDA_VISIBLE_DEVICES takes it; None on a CPU.
    pid: 0 if there is no process in it.
    state: empty (no process), starting (a process without its application yet), restarting (it waits after a crash),
        loading, ready, draining (no new work), failed.
    engine: its name once it is ready; "" before. model: what it speaks with, as people call it.
    progress: of loading, from 0 to 1. doing: what that is about. error: why it failed, for people; "" if it did not.
    active: slots that speak. capacity: slots there are; 0 until it is ready. queued: requests that wait for one.
    load: permits that are taken or waited for, as whoever placed them counts; what placement goes by.
    heartbeat: `time.monotonic()` when the worker last wrote; one clock for all processes of a machine.
    failures: crashes in a row. retry_at: `time.monotonic()` before which its engine is not started again.
    ready_since: `time.monotonic()` at which it became ready; 0 before.
    parts: whether what it has beside its engine works.
    """

    worker_id: str
    unit: str
    gpu: str | None
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
    parts: Mapping[ComponentName, ComponentStatus]


@dataclass(frozen=True)
class Pause:
    """What a worker keeps before it loads, having crashed. state: what it is called meanwhile. error: of the crash."""

    seconds: float
    state: Literal["restarting", "failed"]
    error: str


def pause_before(record: WorkerRecord) -> Pause | None:
    """What to wait for in a place before loading a model, if the last worker in it crashed."""
    seconds = record.retry_at - time.monotonic()
    if seconds <= 0:
        return None
    return Pause(seconds, "failed" if record.failures >= FAILED_AFTER else "restarting", record.error)


@dataclass(frozen=True)
class WorkerEntry:
    """What the board has to be told of a place before there is anybody in it."""

    worker_id: str
    unit: str
    gpu: str | None


@dataclass
class _Fields:
    """A record as it lies in memory, in this order."""

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
    parts: bytes = b""


class WorkerRegistry:
    """Records and permits of all places. Every method may be called from any process and any thread.

    All of it happens under one lock, which is held for microseconds and never while anything is awaited. It is the
    kernel's own lock on a file, so it is free as soon as a process that held it is dead.
    """

    def __init__(self, spots: Sequence[WorkerEntry]) -> None:
        self.spots = tuple(spots)
        self._places = len(self.spots)
        self._counter_at = self._places * _RECORD.size  # how many have been placed
        self._turns_at = self._counter_at + _COUNTER.size  # for each place: when it was last chosen
        self._loads_at = self._turns_at + self._places * _COUNTER.size
        self._memory = mmap.mmap(-1, self._loads_at + 4 * self._places**2)  # shared with every fork
        self._loads = memoryview(self._memory)[self._loads_at :].cast("i")  # (holders * places)
        self._file, path = tempfile.mkstemp(prefix="csm-serve-board-")
        os.unlink(path)  # it is there to be locked, by those who have it open
        self._closing = weakref.finalize(self, os.close, self._file)
        self._closing.atexit = False  # a thread may still tell how it is, and the kernel closes it anyhow
        self._threads = threading.Lock()  # the kernel's lock is the process's: it does not part threads

    def __len__(self) -> int:
        return self._places

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    # ---- who is there

    def records(self) -> list[WorkerRecord]:
        """All places, in their order."""
        with self._locked():
            return [self._record(index) for index in range(self._places)]

    def record(self, index: int) -> WorkerRecord:
        with self._locked():
            return self._record(index)

    def claim(self, pid: int) -> int | None:
        """Take the lowest place that nobody is in; None if there is none. Crashes before it are remembered."""
        with self._locked():
            for index in range(self._places):
                before = self._read(index)
                if before.pid == 0:
                    self._clear_load(index)
                    mine = _Fields(pid=pid, state=STATES.index("starting"), heartbeat=time.monotonic())
                    mine.failures, mine.retry_at, mine.error = before.failures, before.retry_at, before.error
                    self._write(index, mine)
                    return index
        return None

    def arrive(self, index: int, pid: int) -> None:
        """The worker that the master took a place for (as COMING) is there."""
        with self._locked():
            fields = self._read(index)
            fields.pid = pid
            self._write(index, fields)

    def vacate(self, index: int, *, failures: int = 0, retry_at: float = 0.0, error: str = "") -> None:
        """Nobody is in this place any more, and what its worker held on others is free again."""
        with self._locked():
            self._clear_load(index)
            self._write(index, _Fields(failures=failures, retry_at=retry_at, error=error.encode()))

    # ---- what a worker says of itself

    def tell(
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
        parts: Mapping[ComponentName, ComponentStatus] | None = None,
    ) -> None:
        """Say how it is, and with that: that it is alive. error, parts: None leaves what was told before."""
        with self._locked():
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
            if parts is not None:
                fields.parts = b"".join(
                    _PART.pack(COMPONENT_STATES.index(each.state), each.error.encode())
                    for each in map(parts.__getitem__, COMPONENTS)
                )
            self._write(index, fields)

    # ---- who speaks for whom

    def reserve(
        self, holder: int, permits: int, passed_over: Collection[int] = (), *, only_free: bool = False
    ) -> int | None:
        """Choose who speaks, and count it as theirs from this moment on; None if nobody can be asked.

        holder: the place that will hold the permits. passed_over: places that have refused already.
        only_free: nobody who would have to let it wait.
        """
        now = time.monotonic()
        with self._locked():
            candidates = [
                Candidate(index, self._load(index), fields.capacity, self._turn(index))
                for index in range(self._places)
                if index not in passed_over
                and STATES[(fields := self._read(index)).state] == "ready"
                and (index == holder or now - fields.heartbeat < STALE_SECONDS)
            ]
            chosen = choose(candidates, permits, only_free=only_free)
            if chosen is not None:
                self._loads[holder * self._places + chosen] += permits
                (turn,) = _COUNTER.unpack_from(self._memory, self._counter_at)
                _COUNTER.pack_into(self._memory, self._counter_at, turn + 1)
                _COUNTER.pack_into(self._memory, self._turns_at + chosen * _COUNTER.size, turn + 1)
            return chosen

    def release(self, holder: int, target: int, permits: int) -> None:
        """Give back what was reserved."""
        with self._locked():
            at = holder * self._places + target
            self._loads[at] = max(self._loads[at] - permits, 0)  # 0 already where the target has died meanwhile

    def _turn(self, index: int) -> int:
        (turn,) = _COUNTER.unpack_from(self._memory, self._turns_at + index * _COUNTER.size)
        return int(turn)

    def _load(self, target: int) -> int:
        return sum(self._loads[target :: self._places])

    def _clear_load(self, holder: int) -> None:
        for target in range(self._places):
            self._loads[holder * self._places + target] = 0

    # ---- memory

    def _read(self, index: int) -> _Fields:
        return _Fields(*_RECORD.unpack_from(self._memory, index * _RECORD.size))

    def _write(self, index: int, fields: _Fields) -> None:
        values = (getattr(fields, name) for name in _FIELD_NAMES)
        _RECORD.pack_into(self._memory, index * _RECORD.size, *values)

    def _record(self, index: int) -> WorkerRecord:
        spot, fields = self.spots[index], self._read(index)
        return WorkerRecord(
            worker_id=spot.worker_id,
            unit=spot.unit,
            gpu=spot.gpu,
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
            parts={
                part: ComponentStatus(COMPONENT_STATES[state], _text(error))
                for part, (state, error) in zip(COMPONENTS, _PART.iter_unpack(fields.parts), strict=True)
            },
        )


_FIELD_NAMES = tuple(_Fields.__dataclass_fields__)


def _text(raw: bytes) -> str:
    """What was written, as far as there was room."""
    return raw.rstrip(b"\0").decode(errors="ignore")
