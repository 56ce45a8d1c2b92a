"""Name of the CPU, recorded with every result. Does not import torch."""

from __future__ import annotations

import platform

from engine import MachineLimits


def cpu_name() -> str:
    """CPU model name and number of cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {MachineLimits().cores().count:g} cores"
