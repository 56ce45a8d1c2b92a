"""bench.gpu: its commands exist, respect their limits, and are reported."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

from bench import attention, depth_weights, frame, gpu, load, peers
from bench.gpu import CPU, GPU, TINY, Plan, Step, main, run, steps_of
from engine import random_checkpoint


class _Parsed(Exception):
    pass


@pytest.mark.parametrize("plan", [GPU, CPU, TINY])
def test_every_step_is_a_valid_command(plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, arguments: list[str] | None = None) -> None:
        parse(self, arguments)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    mains = {
        "engine.random_checkpoint": random_checkpoint.main,
        "bench.frame": frame.main,
        "bench.attention": attention.main,
        "bench.load": load.main,
        "bench.peers": peers.main,
        "bench.depth_weights": depth_weights.main,
    }
    steps = steps_of(plan, str(tmp_path), "cpu", tests=True)
    assert steps[0].command[0] == "pytest"
    assert {step.command[0] for step in steps[1:]} == mains.keys()
    for step in steps[1:]:
        monkeypatch.setattr(sys, "argv", [step.name, *step.command[1:]])
        with pytest.raises(_Parsed):
            mains[step.command[0]]()


def test_the_plans_take_less_than_ten_minutes() -> None:
    assert GPU.minutes < 10
    assert TINY.minutes < 10


def test_output_is_saved_and_failed_steps_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [Step("good", 20, ("platform",)), Step("bad", 20, ("no_such_module",))]
    monkeypatch.setattr(gpu, "steps_of", lambda *args, **kwargs: list(steps))
    assert main(["--tiny", "--results", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "==== good: ok" in printed
    assert "==== bad: FAILED" in printed
    assert "no_such_module" in (tmp_path / "bad.txt").read_text(encoding="utf-8")
    assert (tmp_path / "good.txt").read_text(encoding="utf-8")
    assert main(["--tiny", "--results", str(tmp_path), "--minutes", "0.1"]) == 1
    assert capsys.readouterr().out.count("skipped, the time is up") == len(steps)


def test_a_step_that_exceeds_its_limit_is_killed(tmp_path: Path) -> None:
    long = Step("long", 1, ("timeit", "-n", "1", "-r", "1", "-s", "import time", "time.sleep(60)"))
    assert not run(long, tmp_path, 1.0)


def test_without_a_gpu_the_alternatives_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main(["--results", str(tmp_path)]) == 1
    assert "--tiny" in capsys.readouterr().err
