"""Stands in for NVML's bindings in the processes of a service: a driver with four GPUs, and nothing more to tell.

It also makes the fake engine load as if on the GPU that its process sees: it notes CUDA_VISIBLE_DEVICES in a file per
process beside the file of troubles, and reads the troubles of that GPU alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine import testing

COUNT = 4


class NVMLError(Exception):
    pass


def nvmlInit() -> None:  # noqa: N802  the driver's name
    pass


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return COUNT


def __getattr__(name: str) -> Any:
    if not name.startswith("nvml"):
        raise AttributeError(name)

    def unsupported(*args: object) -> None:
        raise NVMLError(name)

    return unsupported


_read_word = testing._read_word


def _read_word_of_this_gpu(path: str) -> str:
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    Path(f"{path}-seen-{os.getpid()}").write_text(gpu, encoding="utf-8")
    return _read_word(f"{path}-{gpu}")


testing._read_word = _read_word_of_this_gpu
