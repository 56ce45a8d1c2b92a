"""Hardware limits (memory bandwidth, matmul rate) and timing helpers, shared by all benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .cpu_info import cpu_name


def synchronize(device: torch.device) -> None:
    """Wait until the device has completed all submitted work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `work` takes, including the device work it submits."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def median_seconds(work: Callable[[], Any], device: torch.device, rounds: int, warmups: int = 2) -> float:
    for _ in range(warmups):
        work()
    return statistics.median(timed(work, device) for _ in range(rounds))


@dataclass(frozen=True)
class Bandwidth:
    """Memory bandwidth in bytes per second on blocks larger than any cache: of a sum, and of a copy (both ways)."""

    read: float
    copy: float

    @property
    def best(self) -> float:
        """The bandwidth for floors: on some machines a sum is limited by its additions."""
        return max(self.read, self.copy)

    def __str__(self) -> str:
        return f"reads {self.read / 1e9:.1f} GB/s, copies at {self.copy / 1e9:.1f} GB/s"


def measure_bandwidth(device: torch.device) -> Bandwidth:
    block = torch.ones(1 << 27, dtype=torch.float32, device=device)  # 512 MiB
    other = torch.empty_like(block)
    other.copy_(block)
    read, copied = (min(timed(work, device) for _ in range(5)) for work in (block.sum, lambda: other.copy_(block)))
    return Bandwidth(block.nbytes / read, 2 * block.nbytes / copied)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product in `dtype`."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(3))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"
