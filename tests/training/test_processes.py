"""Several processes, one for each GPU, learn what one does. Here they are two on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.run_log import read_log

from .chance import DIVIDED, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)  # processes of their own read all of torch anew
@pytest.mark.usefixtures("one_thread")
def test_two_processes_learn_what_one_does(base_directory: Path, tmp_path: Path) -> None:
    _, alone = run(base_directory, tmp_path / "one", DIVIDED)
    together = tmp_path / "two"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "tests.training.one_of_two", str(base_directory), str(together)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    weights = [load_file(together / f"weights-{rank}.safetensors") for rank in (0, 1)]
    for name, tensor in alone.items():
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-3, atol=2e-5)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert [two[name] for name in ("first", "depth", "frames")] == pytest.approx(
            [one[name] for name in ("first", "depth", "frames")], rel=1e-4
        )
