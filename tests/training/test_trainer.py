"""Training runs learn, stop on request, and resume without a difference."""

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
from training.base_checkpoint import BaseCheckpoint, load_base
from training.errors import DivergenceError, ResumeError, TrainingError
from training.example import Example
from training.export import export_model
from training.run_log import read_log
from training.sequence import Sequence
from training.settings import TrainSettings
from training.trainer import Hooks, Outcome, train

from .short_runs import SHORT, run

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]


def weights_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_seconds(log: Path) -> list[dict[str, float]]:
    return [{name: line[name] for name in line if "second" not in name} for line in read_log(log)]


def test_overfitted_clips_are_reproduced_by_the_engine(base: BaseCheckpoint, tmp_path: Path) -> None:
    """Every code and the stop frame."""
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
            speech = engine.generate(SpeechRequest(example.text, temperature=0))
            np.testing.assert_array_equal(speech.codes, example.codes)
    finally:
        engine.close()


@pytest.mark.timeout(300)  # starts a process that imports torch
def test_a_killed_run_resumes_like_an_unbroken_one(base_directory: Path, tmp_path: Path) -> None:
    """Killed after logging step 8, with a saved state of step 6 and a partial state file."""
    outcome, unbroken = run(base_directory, tmp_path / "unbroken")
    assert outcome == Outcome(10, finished=True)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.training.killed_run", str(base_directory), str(out)]
    process = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=290, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [path.name for path in (out / "state").iterdir()] == ["step-00000006.pt"]
    assert [line["step"] for line in read_log(out / "log.jsonl")] == [2, 4, 6, 8]
    (out / "state/step-00000009.pt.partial").write_bytes(b"half a state")
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    outcome, resumed = run(base_directory, out)
    assert outcome == Outcome(10, finished=True)
    assert weights_equal(resumed, unbroken)
    assert without_seconds(out / "log.jsonl") == without_seconds(tmp_path / "unbroken/log.jsonl")
    assert [path.name for path in (out / "state").iterdir()] == ["step-00000010.pt"]


def test_a_run_stopped_after_every_step_equals_an_unbroken_one(base_directory: Path, tmp_path: Path) -> None:
    _, unbroken = run(base_directory, tmp_path / "unbroken", steps=4)
    for step in range(1, 4):
        outcome, _ = run(base_directory, tmp_path / "stopped", hooks=Hooks(should_stop=lambda: True), steps=4)
        assert outcome == Outcome(step, finished=False)
    outcome, resumed = run(base_directory, tmp_path / "stopped", steps=4)
    assert outcome == Outcome(4, finished=True)
    assert weights_equal(resumed, unbroken)
    assert without_seconds(tmp_path / "stopped/log.jsonl") == without_seconds(tmp_path / "unbroken/log.jsonl")


def test_the_time_limit_saves_the_state_and_ends_the_run(base_directory: Path, tmp_path: Path) -> None:
    outcome, stopped = run(base_directory, tmp_path, minutes=0.0)
    assert outcome == Outcome(1, finished=False)
    outcome, _ = run(base_directory, tmp_path, steps=1)
    assert outcome == Outcome(1, finished=True)
    assert weights_equal(run(base_directory, tmp_path, steps=1)[1], stopped)


def test_changed_settings_are_refused_on_resume(base_directory: Path, tmp_path: Path) -> None:
    run(base_directory, tmp_path, steps=1)
    with pytest.raises(ResumeError, match=r"holds 1 steps of a run with learning_rate 0\.001 \(now 0\.5\)"):
        run(base_directory, tmp_path, steps=2, learning_rate=0.5)
    run(base_directory, tmp_path, steps=2, max_positions=999, log_every=1)


def test_a_state_with_other_trained_weights_is_refused(base_directory: Path, tmp_path: Path) -> None:
    run(base_directory, tmp_path, steps=1)
    base = load_base(str(base_directory))
    base.model.lm_head.requires_grad_(False)
    with pytest.raises(ResumeError, match=r"trained other weights \(lm_head\.weight\)"):
        train(base.model, base.layout, lambda step, rng: [], replace(SHORT, steps=2), tmp_path)


def test_a_damaged_state_is_reported(base_directory: Path, tmp_path: Path) -> None:
    run(base_directory, tmp_path, steps=1)
    (state,) = (tmp_path / "state").iterdir()
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ResumeError, match=r"step-00000001\.pt: cannot be read"):
        run(base_directory, tmp_path, steps=2)


def test_all_weights_except_the_codecs_change(base: BaseCheckpoint, base_directory: Path, tmp_path: Path) -> None:
    before = base.model.state_dict()
    _, after = run(base_directory, tmp_path)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {name for name in before if name.startswith("codec_model.")}


def test_gradient_accumulation_equals_one_large_batch(base_directory: Path, tmp_path: Path) -> None:
    whole, accumulated = (
        run(base_directory, tmp_path / str(max_positions), steps=3, depth_share=1.0, max_positions=max_positions)[1]
        for max_positions in (250, 80)
    )
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name], rtol=1e-3, atol=2e-5)
    entries = [read_log(tmp_path / str(max_positions) / "log.jsonl")[0] for max_positions in (250, 80)]
    assert entries[0]["loss"] == pytest.approx(entries[1]["loss"], rel=1e-5)
    assert entries[0]["norm"] == pytest.approx(entries[1]["norm"], rel=1e-4)


def test_the_seed_determines_the_run(base_directory: Path, tmp_path: Path) -> None:
    one, again, other = (
        run(base_directory, tmp_path / name, steps=2, seed=seed)[1] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert weights_equal(one, again)
    assert not weights_equal(one, other)


def test_bfloat16_autocast_keeps_float32_weights(base_directory: Path, tmp_path: Path) -> None:
    _, float32 = run(base_directory, tmp_path / "float32", steps=2)
    _, bfloat16 = run(base_directory, tmp_path / "bfloat16", steps=2, precision="bfloat16")
    assert {tensor.dtype for name, tensor in bfloat16.items() if "codec" not in name} == {torch.float32}
    assert not weights_equal(float32, bfloat16)
    first, second = (read_log(tmp_path / name / "log.jsonl")[0]["loss"] for name in ("float32", "bfloat16"))
    assert first == pytest.approx(second, rel=0.02)


def test_loss_weights(base_directory: Path, tmp_path: Path) -> None:
    """Codebook 3 has its own head, which a weight of 0 leaves unchanged."""
    before = load_base(str(base_directory)).model.state_dict()
    changes: dict[str, Any] = {"codebook_weights": (1.0, 1.0, 0.0), "weight_decay": 0.0, "steps": 2}
    _, after = run(base_directory, tmp_path, **changes)
    heads = "depth_decoder.codebooks_head.weight"
    assert [torch.equal(before[heads][n], after[heads][n]) for n in range(3)] == [False, False, True]
    with pytest.raises(TrainingError, match="codebook_weights has 2 values, but the model has 3"):
        run(base_directory, tmp_path / "wrong", codebook_weights=(1.0, 1.0))


def test_hooks_are_called_when_due(base_directory: Path, tmp_path: Path) -> None:
    sampled: list[int] = []

    def evaluate(model: Any) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"held_out_first": 1.5}

    entries: list[dict[str, float]] = []
    hooks = Hooks(entries.append, evaluate, lambda steps, model: sampled.append(steps))
    run(base_directory, tmp_path / "one", hooks=hooks, steps=6, evaluate_every=3, sample_every=4)
    assert sampled == [4]
    assert [line["step"] for line in entries if "held_out_first" in line] == [3, 6]
    assert [line["step"] for line in entries if "loss" in line] == [2, 4, 6]
    assert entries == read_log(tmp_path / "one/log.jsonl")


def test_hooks_do_not_change_training(base_directory: Path, tmp_path: Path) -> None:
    def disturb(*_: Any) -> Any:
        torch.manual_seed(123)
        torch.rand(5)
        return {}

    _, plain = run(base_directory, tmp_path / "plain", steps=4)
    hooks = Hooks(evaluate=disturb, sample=disturb)
    _, disturbed = run(base_directory, tmp_path / "disturbed", hooks=hooks, steps=4, evaluate_every=1, sample_every=1)
    assert weights_equal(plain, disturbed)


def test_divergence_is_reported_and_keeps_the_last_state(base: BaseCheckpoint, tmp_path: Path) -> None:
    clip = Example("One.", "One.", 0, np.random.default_rng(0).integers(0, 64, (5, 4)))

    def sequences(step: int, _: np.random.Generator) -> list[Sequence]:
        if step == 3:
            base.model.lm_head.weight.data.fill_(float("nan"))
        return [Sequence((clip,))]

    settings = TrainSettings(steps=10, learning_rate=1e-3, save_every=3, device="cpu")
    with pytest.raises(DivergenceError, match=r"step 4: .*learning rate below 0\.001"):
        train(base.model, base.layout, sequences, settings, tmp_path)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000003.pt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="requires a machine without CUDA")
def test_unavailable_cuda_is_reported(base_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="finds no CUDA device; use auto or cpu"):
        run(base_directory, tmp_path, device="cuda")
