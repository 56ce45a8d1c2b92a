"""Which GPUs this process may use, asked of the driver: no torch and no CUDA context."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pynvml


def driver_count() -> int:
    """How many GPUs the driver has; 0 without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(device: str, environ: Mapping[str, str], count: int | None = None) -> list[str]:
    """The names of the usable GPUs, each as CUDA_VISIBLE_DEVICES takes it: an index, a GPU-… or a MIG-… name.

    device: the setting DEVICE; "cpu" uses none, "cuda:N" the one that stands at N.
    count: of the driver's GPUs; None asks it.
    CUDA_VISIBLE_DEVICES is read as CUDA reads it: the list ends at the first entry that names no GPU.
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
