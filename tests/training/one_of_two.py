"""One process of a short run that is done by several.

torchrun --nproc-per-node 2 -m tests.training.one_of_two BASE OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from .chance import DIVIDED, run

if __name__ == "__main__":
    torch.set_num_threads(1)
    base, out = map(Path, sys.argv[1:])
    _, weights = run(base, out, DIVIDED)
    distinct = {name: tensor.clone() for name, tensor in weights.items()}
    save_file(distinct, out / f"weights-{os.environ['RANK']}.safetensors")
    torch.distributed.destroy_process_group()
