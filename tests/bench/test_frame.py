from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import frame, machine
from bench.frame import floor_seconds, main, weights_per_frame
from engine import EngineConfig
from engine.loading import load


@pytest.fixture(autouse=True)
def fixed_hardware_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the real limits takes gigabytes, and no test depends on them."""
    monkeypatch.setattr(frame, "measure_bandwidth", lambda device: machine.Bandwidth(1e10, 2e10))
    monkeypatch.setattr(frame, "matmul_rate", lambda device, dtype: 1e12)


def test_frame_times_are_printed_with_the_floor(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--rows", "1", "3", "--contexts", "64", "9999", "--rounds", "1"]
    main(["--model", str(checkpoint), "--device", "cpu", "--dtype", "float32", *sizes])
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(line["rows"], line["context"]) for line in data["frames"]] == [(1, 64), (3, 64)]
    for line in data["frames"]:
        assert 0 < line["floor_seconds"] < line["step_seconds"]
        assert min(line["seconds"], line["overlapped_seconds"], line["codec_seconds"]) > 0
    assert data["kernels_per_frame"] > 100
    assert data["start_phases"].keys() == {"weights", "warm up"}
    assert data["start_seconds"] > 0
    assert data["memory_by_use"]["weights"] < data["memory_bytes"]
    assert (data["read_gb_per_second"], data["copy_gb_per_second"]) == (10, 20)


def test_the_floor_is_the_larger_of_memory_and_arithmetic_time(checkpoint: Path) -> None:
    config = EngineConfig(str(checkpoint), "cpu", "float32", slots=2)
    runner = load(config, lambda share, what: None).runner
    model = runner.model
    nbytes, numbers = weights_per_frame(model)
    once = sum(each.nbytes for part in (model.backbone, model.heads) for each in part.parameters())
    assert nbytes == once + sum(each.nbytes for each in model.depth.parameters()) * (model.config.codebooks - 1)
    backbone = model.config.backbone
    position = 2 * backbone.layers * backbone.kv_heads * backbone.head_dim * 4
    assert floor_seconds(runner, 2, 10, 1e9, 1e30) == pytest.approx((nbytes + 2 * 10 * position) / 1e9)
    assert floor_seconds(runner, 2, 10, 1e30, 1e9) == pytest.approx(2 * 2 * numbers / 1e9)


def test_the_better_of_read_and_copy_bandwidth_is_used() -> None:
    assert machine.Bandwidth(3.0, 2.0).best == 3.0
    assert machine.Bandwidth(1.0, 2.0).best == 2.0


def test_bandwidth_is_computed_from_the_fastest_round(monkeypatch: pytest.MonkeyPatch) -> None:
    ones, seconds = torch.ones, iter([0.5] * 5 + [0.25] * 5)
    monkeypatch.setattr(torch, "ones", lambda size, **options: ones(1 << 10, **options))
    monkeypatch.setattr(machine, "timed", lambda work, device: (work(), next(seconds))[1])
    found = machine.measure_bandwidth(torch.device("cpu"))
    assert (found.read, found.copy) == (4096 / 0.5, 2 * 4096 / 0.25)
