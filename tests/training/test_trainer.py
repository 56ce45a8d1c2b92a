"""A run learns, stops where it is told to, and does not show that it was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import EngineConfig, SpeechRequest, load_engine
from training.base_model import BaseModel, load_base
from training.errors import Diverged, ResumeError, TrainingError
from training.example import Example
from training.export import export_model
from training.run_log import read_log
from training.sequence import Sequence
from training.settings import TrainSettings
from training.trainer import Hooks, Outcome, train

from .chance import SHORT, run

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_seconds(log: Path) -> list[dict[str, float]]:
    return [{name: line[name] for name in line if "second" not in name} for line in read_log(log)]


def test_three_clips_are_learnt_by_heart_and_said_back_by_the_engine(base: BaseModel, tmp_path: Path) -> None:
    """Every code, and the stop frame where it belongs: alone and in a voice."""
    rng = np.random.default_rng(0)
    words = ["One.", "Two, then!", "And three?"]
    examples = [Example(text, text, 0, rng.integers(0, 64, (5 + n, 4))) for n, text in enumerate(words)]
    sequences = [Sequence((each,)) for each in examples]
    settings = TrainSettings(steps=60, learning_rate=4e-3, warmup=10, depth_share=1.0, device="cpu")
    train(base.model, base.layout, lambda step, rng: sequences, settings, tmp_path / "run")
    first, last = read_log(tmp_path / "run/log.jsonl")[:: 60 // settings.log_every - 1]
    assert last["loss"] < 0.1 < first["loss"]
    served = export_model(base.directory, base.model.state_dict(), tmp_path / "served")
    engine = load_engine(EngineConfig(str(served), device="cpu", dtype="float32", slots=1))
    try:
        for example in examples:
            said = engine.generate(SpeechRequest(example.text, temperature=0))
            np.testing.assert_array_equal(said.codes, example.codes)
    finally:
        engine.close()


@pytest.mark.timeout(300)  # a process of its own reads all of torch anew
def test_a_killed_run_taken_up_again_is_an_unbroken_one(base_directory: Path, tmp_path: Path) -> None:
    """Killed behind step 8, it has a state of step 6 and a log that knows more; half a state lies there too."""
    outcome, unbroken = run(base_directory, tmp_path / "unbroken")
    assert outcome == Outcome(10, finished=True)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.training.killed_run", str(base_directory), str(out)]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [path.name for path in (out / "state").iterdir()] == ["step-00000006.pt"]
    assert [line["step"] for line in read_log(out / "log.jsonl")] == [2, 4, 6, 8]
    (out / "state/step-00000009.pt.partial").write_bytes(b"half a state")
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    outcome, resumed = run(base_directory, out)
    assert outcome == Outcome(10, finished=True)
    assert same(resumed, unbroken)
    assert without_seconds(out / "log.jsonl") == without_seconds(tmp_path / "unbroken/log.jsonl")
    assert [path.name for path in (out / "state").iterdir()] == ["step-00000010.pt"]


def test_a_run_stopped_at_every_step_is_an_unbroken_one(base_directory: Path, tmp_path: Path) -> None:
    _, unbroken = run(base_directory, tmp_path / "unbroken", steps=4)
    for step in range(1, 4):
        outcome, _ = run(base_directory, tmp_path / "stopped", hooks=Hooks(stop=lambda: True), steps=4)
        assert outcome == Outcome(step, finished=False)
    outcome, resumed = run(base_directory, tmp_path / "stopped", steps=4)
    assert outcome == Outcome(4, finished=True)
    assert same(resumed, unbroken)
    assert without_seconds(tmp_path / "stopped/log.jsonl") == without_seconds(tmp_path / "unbroken/log.jsonl")


def test_time_that_is_up_ends_a_run_with_its_state_saved(base_directory: Path, tmp_path: Path) -> None:
    outcome, stopped = run(base_directory, tmp_path, minutes=0.0)
    assert outcome == Outcome(1, finished=False)
    outcome, _ = run(base_directory, tmp_path, steps=1)
    assert outcome == Outcome(1, finished=True)
    assert same(run(base_directory, tmp_path, steps=1)[1], stopped)


def test_another_run_is_not_gone_on_with(base_directory: Path, tmp_path: Path) -> None:
    run(base_directory, tmp_path, steps=1)
    with pytest.raises(ResumeError, match=r"holds 1 steps of a run with learning_rate 0\.001 \(now 0\.5\)"):
        run(base_directory, tmp_path, steps=2, learning_rate=0.5)
    run(base_directory, tmp_path, steps=2, max_positions=999, log_every=1)


def test_a_state_of_other_weights_is_refused(base_directory: Path, tmp_path: Path) -> None:
    run(base_directory, tmp_path, steps=1)
    base = load_base(str(base_directory))
    base.model.lm_head.requires_grad_(False)
    with pytest.raises(ResumeError, match=r"trained other weights \(lm_head\.weight\)"):
        train(base.model, base.layout, lambda step, rng: [], replace(SHORT, steps=2), tmp_path)


def test_a_damaged_state_is_told(base_directory: Path, tmp_path: Path) -> None:
    run(base_directory, tmp_path, steps=1)
    (state,) = (tmp_path / "state").iterdir()
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ResumeError, match=r"step-00000001\.pt: cannot be read"):
        run(base_directory, tmp_path, steps=2)


def test_only_the_codec_stays_as_it_was(base: BaseModel, base_directory: Path, tmp_path: Path) -> None:
    before = base.model.state_dict()
    _, after = run(base_directory, tmp_path)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {name for name in before if name.startswith("codec_model.")}


def test_a_step_in_small_batches_is_one_in_a_large_one(base_directory: Path, tmp_path: Path) -> None:
    whole, parts = (
        run(base_directory, tmp_path / str(most), steps=3, depth_share=1.0, max_positions=most)[1] for most in (250, 80)
    )
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=2e-5)
    lines = [read_log(tmp_path / str(most) / "log.jsonl")[0] for most in (250, 80)]
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-5)
    assert lines[0]["norm"] == pytest.approx(lines[1]["norm"], rel=1e-4)


def test_the_seed_decides(base_directory: Path, tmp_path: Path) -> None:
    one, again, other = (
        run(base_directory, tmp_path / name, steps=2, seed=seed)[1] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(one, again)
    assert not same(one, other)


def test_bfloat16_computes_coarsely_and_keeps_weights_fine(base_directory: Path, tmp_path: Path) -> None:
    _, fine = run(base_directory, tmp_path / "fine", steps=2)
    _, coarse = run(base_directory, tmp_path / "coarse", steps=2, precision="bfloat16")
    assert {tensor.dtype for name, tensor in coarse.items() if "codec" not in name} == {torch.float32}
    assert not same(fine, coarse)
    first, second = (read_log(tmp_path / name / "log.jsonl")[0]["loss"] for name in ("fine", "coarse"))
    assert first == pytest.approx(second, rel=0.02)


def test_weights_of_the_losses(base_directory: Path, tmp_path: Path) -> None:
    """What counts for nothing is not learnt: codebook 3 has a head of its own."""
    before = load_base(str(base_directory)).model.state_dict()
    changes: dict[str, Any] = {"codebook_weights": (1.0, 1.0, 0.0), "weight_decay": 0.0, "steps": 2}
    _, after = run(base_directory, tmp_path, **changes)
    heads = "depth_decoder.codebooks_head.weight"
    assert [torch.equal(before[heads][n], after[heads][n]) for n in range(3)] == [False, False, True]
    with pytest.raises(TrainingError, match="codebook_weights are 2, but the model has 3"):
        run(base_directory, tmp_path / "wrong", codebook_weights=(1.0, 1.0))


def test_hooks_are_asked_when_they_are_due(base_directory: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def evaluate(model: Any) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"held_out_first": 1.5}

    told: list[dict[str, float]] = []
    hooks = Hooks(told.append, evaluate, lambda steps, model: asked.append(steps))
    run(base_directory, tmp_path / "one", hooks=hooks, steps=6, evaluate_every=3, sample_every=4)
    assert asked == [4]
    assert [line["step"] for line in told if "held_out_first" in line] == [3, 6]
    assert [line["step"] for line in told if "loss" in line] == [2, 4, 6]
    assert told == read_log(tmp_path / "one/log.jsonl")


def test_what_is_asked_aside_changes_no_step(base_directory: Path, tmp_path: Path) -> None:
    def disturb(*_: Any) -> Any:
        torch.manual_seed(123)
        torch.rand(5)
        return {}

    _, plain = run(base_directory, tmp_path / "plain", steps=4)
    hooks = Hooks(evaluate=disturb, sample=disturb)
    _, disturbed = run(base_directory, tmp_path / "disturbed", hooks=hooks, steps=4, evaluate_every=1, sample_every=1)
    assert same(plain, disturbed)


def test_a_run_that_diverges_says_so_and_keeps_its_last_state(base: BaseModel, tmp_path: Path) -> None:
    clip = Example("One.", "One.", 0, np.random.default_rng(0).integers(0, 64, (5, 4)))

    def sequences(step: int, _: np.random.Generator) -> list[Sequence]:
        if step == 3:
            base.model.lm_head.weight.data.fill_(float("nan"))
        return [Sequence((clip,))]

    settings = TrainSettings(steps=10, learning_rate=1e-3, save_every=3, device="cpu")
    with pytest.raises(Diverged, match=r"step 4: .*lower learning rate than 0\.001"):
        train(base.model, base.layout, sequences, settings, tmp_path)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000003.pt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_told(base_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="finds no CUDA device here; use auto or cpu"):
        run(base_directory, tmp_path, device="cuda")
