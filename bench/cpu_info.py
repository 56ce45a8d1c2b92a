"""Which processor this is, for the record of a figure. No torch."""

from __future__ import annotations

import os
import platform


def processor() -> str:
    """Its name and how many of its cores there are."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"
