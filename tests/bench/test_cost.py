from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cost import CLAIMED_GPUS, CLAIMED_USERS, NoMeasurementError, cost_of, main, measured_streams


def load_json(runs: list[tuple[str, str, int, bool]], workers: int = 1) -> str:
    data: dict[str, Any] = {
        "benchmark": "load",
        "machine": "a processor",
        "workers": [{"engine": "fake", "gpu": None, "capacity": 4}] * workers,
        "runs": [dict(zip(("loop", "track", "load", "holds"), run, strict=True)) for run in runs],
    }
    return f"some table\n{json.dumps(data)}\n"


def test_the_derived_users_per_gpu_reproduce_the_claim() -> None:
    assert cost_of(CLAIMED_USERS, 1, 1.0).claimed_gpus == CLAIMED_GPUS


@pytest.mark.parametrize(("users", "gpus"), [(1, 1), (64, 1), (65, 2), (500, 8)])
def test_gpus_are_rounded_up(users: int, gpus: int) -> None:
    assert (cost_of(users, 64, 2.0).gpus, cost_of(users, 64, 2.0).price) == (gpus, 2.0 * gpus)


def test_streams_per_worker_come_from_the_worse_track() -> None:
    runs = [("closed", "fixed", 64, True), ("closed", "natural", 32, True), ("closed", "natural", 48, False)]
    assert measured_streams(load_json([*runs, ("open", "fixed", 2, True)], workers=2))[0] == 16


@pytest.mark.parametrize("text", ["", "no json", "[]", load_json([]), load_json([("closed", "fixed", 8, False)])])
def test_output_without_a_holding_load_is_rejected(text: str) -> None:
    with pytest.raises(NoMeasurementError):
        measured_streams(text)


def test_the_output_shows_the_calculation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "load.txt"
    path.write_text(load_json([("closed", "fixed", 8, True)]), encoding="utf-8")
    assert main(["--load", str(path), "--price", "3", "--users", "50"]) == 0
    printed = capsys.readouterr().out
    assert "ceil(50 / 8)" in printed
    assert "not measured on CSM" in printed
    assert json.loads(printed.splitlines()[-1])["costs"][0]["gpus"] == 7
