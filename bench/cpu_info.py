"""Name of the CPU, recorded with every result. Does not import torch."""

from __future__ import annotations

import platform
from pathlib import Path

from engine import MachineLimits


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """CPU model name and number of cores this process may use."""
    return f"{_model(cpuinfo)}, {MachineLimits().cores().count:g} cores"


def _model(cpuinfo: Path) -> str:
    """Linux knows a name on x86-64 and the numbers of the implementer and the part on ARM (0x41 0xd4f: Neoverse V2)."""
    machine = platform.processor() or platform.machine()
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return machine
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = [fields[name] for name in ("CPU implementer", "CPU part") if name in fields]
    return fields.get("model name") or " ".join([machine, *numbers])
