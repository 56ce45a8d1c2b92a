"""A run's saved state: everything the next step depends on, written atomically."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ResumeError

_NAME = re.compile(r"step-(\d+)\.pt")


@dataclass
class RunState:
    """steps: completed steps. window: sums since the last log line. trained: trained weights by name."""

    steps: int
    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    window: dict[str, float]
    binding: dict[str, Any]  # TrainSettings.binding() and the run's identity: must match on resume

    def save(self, directory: Path) -> Path:
        """Write the state under its step number, then remove older ones. The newest file is always complete."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"step-{self.steps:08d}.pt"
        write_atomically(path, lambda partial: torch.save(vars(self), partial))
        for older in directory.iterdir():
            if older != path and (_NAME.fullmatch(older.name) or older.suffix == ".partial"):
                older.unlink()
        return path

    @classmethod
    def newest(cls, directory: Path) -> RunState | None:
        """Load the newest state; None if there is none. Raises ResumeError if it cannot be read."""
        paths = [path for path in directory.glob("step-*.pt") if _NAME.fullmatch(path.name)]
        if not paths:
            return None
        path = max(paths)
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # torch.load raises no narrower type
            raise ResumeError(
                f"{path}: cannot be read ({type(error).__name__}: {error}); remove {directory.parent} to start over"
            ) from error

    def check(self, binding: dict[str, Any], directory: Path) -> None:
        """Raises ResumeError if the state is of a run with other settings."""
        changed = [name for name in binding if self.binding.get(name) != binding[name]]
        if changed:
            differences = ", ".join(f"{name} {self.binding.get(name)!r} (now {binding[name]!r})" for name in changed)
            raise ResumeError(
                f"{directory} holds {self.steps} steps of a run with {differences}: use the same settings to resume "
                "it, or name another directory to start over"
            )


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that require gradients, by name; a tied tensor once. Not copied."""
    return {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}


def restore_weights(model: nn.Module, trained: dict[str, Tensor], directory: Path) -> None:
    """Raises ResumeError if the state has other trained parameters than the model."""
    current = trained_weights(model)
    if {name: each.shape for name, each in current.items()} != {name: each.shape for name, each in trained.items()}:
        name = min(current.keys() ^ trained.keys(), default="the same names in other shapes")
        raise ResumeError(
            f"{directory} holds a run that trained other weights ({name}): name another directory to start over"
        )
    with torch.no_grad():
        for name, each in current.items():
            each.copy_(trained[name])


def write_atomically(path: Path, write: Any) -> None:
    """Call write(partial) with a temporary path, fsync the file and rename it to `path`."""
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
