"""One process of a short distributed run.

torchrun --nproc-per-node 2 -m tests.training.distributed_worker BASE OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from .short_runs import MULTI_BATCH, run

if __name__ == "__main__":
    torch.set_num_threads(1)
    base, out = map(Path, sys.argv[1:])
    _, weights = run(base, out, MULTI_BATCH)
    distinct = {name: tensor.clone() for name, tensor in weights.items()}
    save_file(distinct, out / f"weights-{os.environ['RANK']}.safetensors")
    torch.distributed.destroy_process_group()
