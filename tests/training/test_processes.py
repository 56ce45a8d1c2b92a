"""Data parallelism: two CPU processes train the same weights as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.run_log import read_log

from .short_runs import MULTI_BATCH, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)  # starts processes that import torch
@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_the_same_weights_as_one(base_directory: Path, tmp_path: Path) -> None:
    _, single = run(base_directory, tmp_path / "one", MULTI_BATCH)
    distributed = tmp_path / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "tests.training.distributed_worker", str(base_directory), str(distributed)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290, check=False)
    assert process.returncode == 0, process.stderr
    weights = [load_file(distributed / f"weights-{rank}.safetensors") for rank in (0, 1)]
    for name, tensor in single.items():
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-3, atol=2e-5)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert [two[name] for name in ("first", "depth", "frames")] == pytest.approx(
            [one[name] for name in ("first", "depth", "frames")], rel=1e-4
        )
