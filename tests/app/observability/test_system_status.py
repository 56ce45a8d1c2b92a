from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from app.observability import system_status
from app.observability.system_status import SystemMonitor
from engine import MachineLimits

from ...kernel_files import V2_MOUNT, KernelFiles, v2

pytestmark = pytest.mark.anyio

GIB = 1 << 30


class FakeDriver:
    """pynvml as it answers for some GPUs. refuses: names of calls that end with NOT_SUPPORTED."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int = 2) -> None:
        self.count = count
        self.refuses: set[str] = set()
        self.calls: list[str] = []
        self.busy = 40
        for name in (
            "nvmlInit",
            "nvmlDeviceGetHandleByIndex",
            "nvmlDeviceGetHandleByUUID",
            "nvmlDeviceGetIndex",
            "nvmlDeviceGetUtilizationRates",
            "nvmlDeviceGetMemoryInfo",
        ):
            patch.setattr(pynvml, name, self._wrap(name))

    def _wrap(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.refuses:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return getattr(self, name)(*arguments)

        return call

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index >= self.count:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:  # noqa: N802
        return self.nvmlDeviceGetHandleByIndex(int(name.rpartition("-")[2]))

    def nvmlDeviceGetIndex(self, handle: int) -> int:  # noqa: N802
        return handle

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=self.busy + handle, memory=7)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 * GIB, used=20 * GIB, free=60 * GIB)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return FakeDriver(monkeypatch)


@pytest.fixture
def machines() -> Iterator[Any]:
    made: list[SystemMonitor] = []

    def make(*gpus: str, limits: MachineLimits | None = None) -> SystemMonitor:
        made.append(SystemMonitor(gpus, limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_each_gpu_is_found_by_index_or_name(driver: FakeDriver, machines: Any) -> None:
    first, second = await machines("0", "GPU-1").gpus()
    assert first.model_dump() == {
        "device_id": 0,
        "utilization_percent": {"gpu": 40, "memory": 7},
        "memory_gb": {"total": 80.0, "used": 20.0, "free": 60.0},
    }
    assert (second.device_id, second.utilization_percent.gpu) == (1, 41)


async def test_without_gpus_the_driver_is_not_called(driver: FakeDriver, machines: Any) -> None:
    assert await machines().gpus() == []
    assert driver.calls == []


async def test_values_that_a_gpu_does_not_report_are_null(driver: FakeDriver, machines: Any) -> None:
    driver.refuses = {"nvmlDeviceGetUtilizationRates", "nvmlDeviceGetIndex"}
    (gpu,) = await machines("MIG-1").gpus()
    assert gpu.device_id == "MIG-1"
    assert gpu.utilization_percent.model_dump() == {"gpu": None, "memory": None}
    assert gpu.memory_gb.total == 80


async def test_a_lost_gpu_is_null_and_the_others_are_not(driver: FakeDriver, machines: Any) -> None:
    driver.count = 1
    first, second = await machines("0", "1").gpus()
    assert first.memory_gb.used == 20
    assert (second.device_id, second.memory_gb.used, second.utilization_percent.gpu) == (1, None, None)


async def test_a_missing_driver_is_retried_only_later(
    driver: FakeDriver, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_status, "FRESH_SECONDS", 0.0)
    driver.refuses = {"nvmlInit"}
    asked = machines("0")
    for _ in range(5):
        (gpu,) = await asked.gpus()
        assert (gpu.device_id, gpu.memory_gb.total) == (0, None)
    assert driver.calls == ["nvmlInit"]


async def test_concurrent_calls_share_one_reading(driver: FakeDriver, machines: Any) -> None:
    asked = machines("0", "1")
    answers = await asyncio.gather(*(asked.gpus() for _ in range(50)))
    assert all(each == answers[0] for each in answers)
    assert driver.calls.count("nvmlDeviceGetMemoryInfo") == 2
    assert driver.calls.count("nvmlInit") == 1


async def test_a_hung_driver_gives_the_last_reading(
    driver: FakeDriver, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_status, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(system_status, "TIMEOUT_SECONDS", 0.01)
    asked, go_on = machines("0"), threading.Event()
    before = await asked.gpus()
    while before[0].memory_gb.total is None:  # on a slow machine the first may take longer than the patience
        before = await asked.gpus()

    def hang(handle: int) -> Any:
        go_on.wait(60)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(driver, "nvmlDeviceGetUtilizationRates", hang)
    try:
        assert await asked.gpus() == before
        assert await asked.gpus() == before
    finally:
        go_on.set()


@pytest.fixture
def unlimited(tmp_path: Path) -> MachineLimits:
    """This machine as it is where no cgroup limits it, whatever holds for these tests."""
    return KernelFiles(tmp_path).limits()


def test_cpu_and_memory_are_those_of_the_machine(
    machines: Any, unlimited: MachineLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: len(os.sched_getaffinity(0)))
    asked = machines(limits=unlimited)
    cpu = asked.cpu()
    assert cpu.ram_gb.total == round(psutil.virtual_memory().total / GIB, 2)
    assert 0 < cpu.ram_gb.free <= cpu.ram_gb.total
    assert 0 <= cpu.utilization_percent <= 100
    assert cpu.cores == 16
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 99.5)
    assert asked.cpu() is cpu  # fresh still
    monkeypatch.setattr(system_status, "FRESH_SECONDS", 0.0)
    assert asked.cpu().utilization_percent == 99.5


def test_memory_of_a_container_is_that_of_its_limit(machines: Any, tmp_path: Path) -> None:
    files = v2(tmp_path)
    used, cache = 96 << 20, 32 << 20
    files.group(
        V2_MOUNT,
        memory__max=str(128 << 20),
        memory__current=str(used + cache),
        memory__stat=f"inactive_file {cache}\nactive_file {1 << 20}",
    )
    ram = machines(limits=files.limits()).cpu().ram_gb
    assert ram.model_dump() == {"total": 0.12, "used": 0.09, "free": 0.03, "percent_used": 75.0}


def test_utilization_of_a_container_is_of_its_quota(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(system_status, "time", SimpleNamespace(monotonic=lambda: now))
    files = v2(tmp_path)
    files.group(V2_MOUNT, cpu__max="50000 100000", cpu__stat="usage_usec 1000000")
    asked = machines(limits=files.limits())
    for usage, percent in ((1_250_000, 25.0), (1_250_000, 0.0), (3_000_000, 100.0), (0, 0.0)):  # of half a core
        now += 2
        files.group(V2_MOUNT, cpu__stat=f"usage_usec {usage}")
        cpu = asked.cpu()
        assert (cpu.utilization_percent, cpu.cores) == (percent, 0.5)


def test_utilization_is_of_the_cores_in_the_affinity_mask(
    machines: Any, unlimited: MachineLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [100.0, 10.0, 100.0, 20.0])
    assert machines(limits=unlimited).cpu().utilization_percent == 15.0


def test_reading_the_cpu_does_not_block(
    machines: Any, unlimited: MachineLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: len(os.sched_getaffinity(0)))
    intervals: list[float | None] = []

    def percent(interval: float | None) -> float:
        intervals.append(interval)
        return 1.0

    monkeypatch.setattr(psutil, "cpu_percent", percent)
    machines(limits=unlimited).cpu()
    assert intervals == [None]
