"""Kernel census: how many kernels a frame launches, and how long each kind of them takes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from ..machine import synchronize

# The first pattern that a kernel's name contains decides.
_KINDS = (
    ("reductions of split products", "splitKreduce"),
    ("ragged attention", "_attend_to_split|_join_splits"),
    ("attention", "flash_fwd|fmha|MemEffAttention|depth_attention_kernel"),
    ("persistent depth decoder", "^depth$"),
    ("fused products", "(qkv|add|gate_up|down|head)_kernel"),
    ("fused sampling", "sample_kernel"),
    ("top-k and argmax", "TopK|radixSort|bitonicSort|ArgMax"),
    ("norms", "norm"),
    ("gate", "silu"),
    ("rotary embedding", "roll"),
    ("convolutions", "dgrad|fprop|conv|nchwToNhwc|nhwcToNchw"),
    ("matrix products", "nvjet|gemm|gemv|triton_mm"),
    ("gathers and scatters", "gather|scatter|indexSelect|index_"),
    ("copies", "copy|memcpy|memset|CatArray"),
    ("elementwise", "elementwise|triton_poi"),
)


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, name, re.IGNORECASE)), "others")


@dataclass(frozen=True)
class Kernel:
    """All launches of one kernel. milliseconds: their sum."""

    name: str
    count: int
    milliseconds: float


@dataclass(frozen=True)
class Census:
    """kernels: longest first. span: milliseconds from the first kernel's start to the last one's end."""

    kernels: list[Kernel]
    span: float

    @property
    def count(self) -> int:
        return sum(kernel.count for kernel in self.kernels)

    @property
    def busy(self) -> float:
        """Milliseconds."""
        return sum(kernel.milliseconds for kernel in self.kernels)


def by_kind(kernels: Iterable[Kernel]) -> dict[str, tuple[int, float]]:
    """Kind -> number of kernels and their milliseconds, longest first."""
    sums: defaultdict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        sums[kind_of(kernel.name)].append(kernel)
    totals = {
        kind: (sum(each.count for each in found), sum(each.milliseconds for each in found))
        for kind, found in sums.items()
    }
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def census_of(work: Callable[[], object], device: torch.device) -> Census:
    """Kernels that `work` launches (operators on a CPU). It is run once before."""
    cuda = device.type == "cuda"
    work()
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True) as profiler:
        work()
        synchronize(device)
    there = DeviceType.CUDA if cuda else DeviceType.CPU  # not the host calls that launch them
    launched = [event for event in profiler.events() if event.device_type == there]
    totals: defaultdict[str, list[float]] = defaultdict(list)
    for event in launched:
        totals[event.name].append(event.self_device_time_total if cuda else event.self_cpu_time_total)
    kernels = [Kernel(name, len(times), sum(times) / 1e3) for name, times in totals.items()]
    span = (
        max(event.time_range.end for event in launched) - min(event.time_range.start for event in launched)
        if launched
        else 0.0
    )
    return Census(sorted(kernels, key=lambda kernel: -kernel.milliseconds), span / 1e3)
