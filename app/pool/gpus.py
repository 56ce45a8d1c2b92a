"""Usable GPUs, from the driver (NVML): needs neither torch nor a CUDA context."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pynvml


def driver_count() -> int:
    """Number of GPUs of the driver; 0 without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(device: str, environ: Mapping[str, str], count: int | None = None) -> list[str]:
    """The usable GPUs, named as in CUDA_VISIBLE_DEVICES: an index, or a GPU-… or MIG-… UUID.

    device: the setting DEVICE; "cpu" uses none, "cuda:N" only the one at position N.
    count: number of GPUs; None asks the driver.
    CUDA_VISIBLE_DEVICES is read as CUDA does: the list ends at the first invalid entry.
    """
    if device == "cpu":
        return []
    count = driver_count() if count is None else count
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    gpus: list[str] = []
    for name in map(str, range(count)) if listed is None else map(str.strip, listed.split(",")):
        if re.fullmatch(r"(GPU|MIG)-.+", name) or (name.isdigit() and int(name) < count):
            gpus.append(name)
        else:
            break
    number = device.partition(":")[2]
    return gpus if not number else gpus[int(number) : int(number) + 1]
