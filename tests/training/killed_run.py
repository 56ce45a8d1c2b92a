"""A run that kills itself with SIGKILL after logging step 8.

python -m tests.training.killed_run BASE OUT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from training.trainer import Hooks

from .short_runs import run


def kill(entry: dict[str, float]) -> None:
    if entry["step"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]), hooks=Hooks(on_log=kill))
