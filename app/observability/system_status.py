"""CPU, memory and GPU load of the machine, or of the container if it has limits."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psutil
import pynvml
from pydantic import BaseModel

from engine import Cores, MachineLimits

GIB = 1 << 30
FRESH_SECONDS = 0.5  # younger readings are reused, so that polling costs nothing
TIMEOUT_SECONDS = 1.0  # a driver that takes longer has trouble with a GPU; the last reading is returned
RETRY_SECONDS = 30.0  # before a missing driver is tried again

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Ram(BaseModel):
    total: float
    used: float
    free: float
    percent_used: float


class Cpu(BaseModel):
    """cores: usable by the service; fractional with a quota. utilization_percent: of these cores."""

    utilization_percent: float
    cores: float
    ram_gb: Ram


class GpuUtilization(BaseModel):
    gpu: int | None = None
    memory: int | None = None


class GpuMemory(BaseModel):
    total: float | None = None
    used: float | None = None
    free: float | None = None


class Gpu(BaseModel):
    """One GPU; values that its driver does not report, as of a MIG slice, are null.

    device_id: the driver's index; the name in CUDA_VISIBLE_DEVICES if the driver does not know it.
    """

    device_id: int | str
    utilization_percent: GpuUtilization = GpuUtilization()
    memory_gb: GpuMemory = GpuMemory()


class SystemMonitor:
    """Reads the load on request, at most every FRESH_SECONDS; the GPU driver is called in a thread.

    gpus: named as in CUDA_VISIBLE_DEVICES. A failing GPU or driver gives nulls, not errors.
    limits: default to those of this process.
    """

    def __init__(self, gpus: Iterable[str], limits: MachineLimits | None = None) -> None:
        self._names = tuple(gpus)
        self._limits = limits or MachineLimits()
        self._processors = _Processors(self._limits.cores())
        self._cpu: Cpu | None = None
        self._cpu_at = 0.0
        self._gpus = [Gpu(device_id=_number(name)) for name in self._names]
        self._gpus_at = 0.0
        self._driver = _Driver()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="driver")  # a hung driver blocks nothing else
        self._reading: asyncio.Future[None] | None = None

    def cpu(self) -> Cpu:
        """Takes about a millisecond, for a few kernel files. Utilization is since the last reading."""
        now = time.monotonic()
        if self._cpu is None or now - self._cpu_at >= FRESH_SECONDS:
            cores = self._limits.cores()
            percent = self._processors.utilization_percent(cores)
            self._cpu = Cpu(utilization_percent=percent, cores=round(cores.count, 2), ram_gb=_ram(self._limits))
            self._cpu_at = now
        return self._cpu

    async def gpus(self) -> list[Gpu]:
        """One per name. Concurrent calls share one reading of the driver."""
        if self._names and time.monotonic() - self._gpus_at >= FRESH_SECONDS:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read_gpus)
            await asyncio.wait({self._reading}, timeout=TIMEOUT_SECONDS)
            if self._reading.done():
                self._reading.result()
        return self._gpus

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read_gpus(self) -> None:
        self._gpus = [self._driver.read(name) for name in self._names]
        self._gpus_at = time.monotonic()


class _Processors:
    """Utilization of the machine's cores, of the CPU affinity mask, or of the container's quota."""

    def __init__(self, cores: Cores) -> None:
        self._at, self._used = time.monotonic(), cores.used_seconds

    def utilization_percent(self, cores: Cores) -> float:
        """Utilization of the usable cores since the last call."""
        now, before, at = time.monotonic(), self._used, self._at
        self._at, self._used = now, cores.used_seconds
        if cores.used_seconds is not None:
            allowed = (now - at) * cores.count
            used = 0.0 if before is None else cores.used_seconds - before
            return round(min(max(100 * used / allowed, 0.0), 100.0), 1) if allowed > 0 else 0.0
        allowed_cores = os.sched_getaffinity(0)
        if len(allowed_cores) == psutil.cpu_count():
            return psutil.cpu_percent(interval=None)
        by_core = psutil.cpu_percent(interval=None, percpu=True)
        busy = [percent for core, percent in enumerate(by_core) if core in allowed_cores]
        return round(sum(busy) / len(busy), 1) if busy else 0.0


def _ram(limits: MachineLimits) -> Ram:
    memory, machine = limits.memory(), psutil.virtual_memory()
    if not memory.limited:
        return Ram(
            total=_gib(machine.total),
            used=_gib(machine.used),
            free=_gib(machine.available),
            percent_used=machine.percent,
        )
    return Ram(
        total=_gib(memory.total),
        used=_gib(memory.used),
        free=_gib(min(memory.total - memory.used, machine.available)),
        percent_used=round(100 * memory.used / memory.total, 1) if memory.total else 100.0,
    )


class _Driver:
    """NVML, initialized once for the life of the process."""

    def __init__(self) -> None:
        self._started = False
        self._failed_at = -RETRY_SECONDS

    def read(self, name: str) -> Gpu:
        if not self._start():
            return Gpu(device_id=_number(name))
        by_uuid, by_index = pynvml.nvmlDeviceGetHandleByUUID, pynvml.nvmlDeviceGetHandleByIndex
        handle = _query(by_index, int(name)) if name.isdigit() else _query(by_uuid, name)
        if handle is None:
            return Gpu(device_id=_number(name))
        index = _query(pynvml.nvmlDeviceGetIndex, handle)
        rates: Any = _query(pynvml.nvmlDeviceGetUtilizationRates, handle)
        memory: Any = _query(pynvml.nvmlDeviceGetMemoryInfo, handle)
        return Gpu(
            device_id=_number(name) if index is None else int(index),
            utilization_percent=GpuUtilization()
            if rates is None
            else GpuUtilization(gpu=int(rates.gpu), memory=int(rates.memory)),
            memory_gb=GpuMemory()
            if memory is None
            else GpuMemory(total=_gib(memory.total), used=_gib(memory.used), free=_gib(memory.free)),
        )

    def _start(self) -> bool:
        if not self._started and time.monotonic() - self._failed_at >= RETRY_SECONDS:
            try:
                pynvml.nvmlInit()
                self._started = True
            except pynvml.NVMLError as error:
                self._failed_at = time.monotonic()
                _log.warning("the GPU driver does not respond (%s): /system-status has no GPU load", error)
        return self._started


def _query(function: Callable[..., _T], *arguments: object) -> _T | None:
    """The driver's result; None if it fails."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _number(name: str) -> int | str:
    return int(name) if name.isdigit() else name


def _gib(size: int) -> float:
    return round(size / GIB, 2)
