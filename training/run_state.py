"""A run's state on disk: all that the next step depends on, whole or not there at all."""

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
    """steps: how many are done. window: sums since the last line of the log. trained: weights by their names."""

    steps: int
    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    window: dict[str, float]
    binding: dict[str, Any]  # TrainSettings.binding(), and what else makes it this run

    def save(self, directory: Path) -> Path:
        """Write it under its step, then remove older ones. Killed at any time, the newest whole one is there."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"step-{self.steps:08d}.pt"
        write_atomically(path, lambda partial: torch.save(vars(self), partial))
        for older in directory.iterdir():
            if older != path and (_NAME.fullmatch(older.name) or older.suffix == ".partial"):
                older.unlink()
        return path

    @classmethod
    def newest(cls, directory: Path) -> RunState | None:
        """Raises ResumeError if there is one that cannot be read."""
        paths = [path for path in directory.glob("step-*.pt") if _NAME.fullmatch(path.name)]
        if not paths:
            return None
        path = max(paths)
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # the library raises nothing narrower
            raise ResumeError(
                f"{path}: cannot be read ({type(error).__name__}: {error}); remove {directory.parent} to begin anew"
            ) from error

    def check(self, binding: dict[str, Any], directory: Path) -> None:
        """Raises ResumeError if a run with other settings made this state."""
        other = [name for name in binding if self.binding.get(name) != binding[name]]
        if other:
            told = ", ".join(f"{name} {self.binding.get(name)!r} (now {binding[name]!r})" for name in other)
            raise ResumeError(
                f"{directory} holds {self.steps} steps of a run with {told}: give the same again to go on with it, "
                "or name another directory to begin anew"
            )


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """What the run changes, by name; a tied tensor once. Not copied."""
    return {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}


def restore_weights(model: nn.Module, trained: dict[str, Tensor], directory: Path) -> None:
    """Raises ResumeError if the state is of another model, or of other parts of it."""
    ours = trained_weights(model)
    if {name: each.shape for name, each in ours.items()} != {name: each.shape for name, each in trained.items()}:
        name = min(ours.keys() ^ trained.keys(), default="the same names in other shapes")
        raise ResumeError(
            f"{directory} holds a run that trained other weights ({name}): name another directory to begin anew"
        )
    with torch.no_grad():
        for name, each in ours.items():
            each.copy_(trained[name])


def write_atomically(path: Path, write: Any) -> None:
    """write(partial) makes a file beside it, which then takes the name: there is never half a one under it."""
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
