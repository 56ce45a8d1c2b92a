"""A run that is killed, no handler and no clean-up, when it has told of step 8.

python -m tests.training.killed_run BASE OUT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from training.trainer import Hooks

from .chance import run


def kill(entry: dict[str, float]) -> None:
    if entry["step"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]), hooks=Hooks(logged=kill))
