"""JSON lines of a run: one flushed line per figure, after a first line with the conditions of the run."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..machine import device_name
from ..module_path import ROOT

_PACKAGES = ("torch", "transformers", "triton", "numpy", "moshi", "safetensors", "tokenizers")


class Recorder:
    """Prints records and appends them to a file as they come, so that an interrupted run keeps what it has measured."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("w", encoding="utf-8")
        self._started = time.monotonic()

    def add(self, what: str, **figures: Any) -> None:
        """One line: seconds since the start, what was measured, and its figures; floats have five decimals."""
        line = {"t": round(time.monotonic() - self._started, 1), "what": what}
        text = json.dumps(line | {key: _rounded(value) for key, value in figures.items()}, default=str)
        print(text, flush=True)
        self._file.write(text + "\n")
        self._file.flush()

    def beside(self, name: str) -> Path:
        """Path of a further file of this run."""
        return self.path.with_name(f"{self.path.stem}-{name}.txt")

    def close(self) -> None:
        self._file.close()


class LogRecords(logging.Handler):
    """Adds log records, such as the engine's start-up times."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.INFO)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        self._recorder.add("log", level=record.levelname, text=record.getMessage()[:1000])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def conditions(device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    """What the figures depend on: date, device, driver, versions, commit, command."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(device),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "command": " ".join(("python -m bench.gpu", *arguments)),
    }


def file_name(device: torch.device, stages: Sequence[str]) -> str:
    """Such as 2026-11-28-nvidia-h200-first.jsonl."""
    short = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-") if device.type == "cuda" else "cpu"
    return "-".join((time.strftime("%Y-%m-%d"), short, *stages)) + ".jsonl"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _commit() -> str:
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = commit != "unknown" and _output("git", "-C", str(ROOT), "status", "--porcelain", "-uno") != "unknown"
    return f"{commit} with changes" if changed else commit


def _output(*command: str) -> str:
    """First line that a command prints; "unknown" if it prints none or does not work here."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = ran.stdout.splitlines() if ran.returncode == 0 else []
    return lines[0].strip() if lines else "unknown"
