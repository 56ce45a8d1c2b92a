"""From clips and a checkpoint to an adapter or a model, with logs, plots and samples."""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import EngineConfig, SpeechRequest, load_engine
from training.errors import ResumeError, TrainingError
from training.lora import LoraSettings
from training.merge import merge
from training.pipeline import PipelineConfig, run_pipeline
from training.run_log import read_log

from .short_runs import SHORT, random_examples

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def config(base_directory: Path, tmp_path: Path) -> PipelineConfig:
    settings = replace(SHORT, steps=6, evaluate_every=3, sample_every=4)
    return PipelineConfig(
        str(base_directory), tmp_path / "out", settings, LoraSettings(rank=4), step_positions=250, held_out=0.25
    )


def stop_after(done: int) -> Callable[[], bool]:
    """Returns should_stop that is true after `done` steps."""
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= done


def test_a_run_writes_an_adapter_logs_plots_and_samples(config: PipelineConfig, tmp_path: Path) -> None:
    entries: list[dict[str, float]] = []
    threads = torch.get_num_threads()
    result = run_pipeline(config, random_examples(8), on_log=entries.append)
    assert result.outcome.finished
    assert result.output == config.out / "adapter"
    assert torch.get_num_threads() == threads
    assert sorted(path.name for path in config.out.iterdir()) == [
        "adapter", "log.jsonl", "loss.png", "samples", "state", "tensorboard",
    ]  # fmt: skip
    assert entries == read_log(config.out / "log.jsonl")
    assert [line["step"] for line in entries if "held_out_depth" in line] == [3, 6]
    assert (config.out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (config.out / "samples").iterdir()] == ["step-000004.wav"]
    with wave.open(str(config.out / "samples/step-000004.wav")) as sample:
        assert (sample.getframerate(), sample.getnchannels(), sample.getsampwidth()) == (24000, 1, 2)
        assert sample.getnframes() % 1920 == 0
        assert sample.getnframes() > 0
    events = EventAccumulator(str(config.out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("first")] == [2, 4, 6]

    merged = merge(str(result.output), tmp_path / "merged")
    engine = load_engine(EngineConfig(str(merged), device="cpu", dtype="float32", slots=1))
    try:
        assert len(engine.generate(SpeechRequest("Hello.", seed=1, max_frames=3)).codes) <= 3
    finally:
        engine.close()


def test_a_resumed_run_equals_an_unbroken_one(config: PipelineConfig, tmp_path: Path) -> None:
    unbroken = run_pipeline(config, random_examples(8)).output
    stopped = replace(config, out=tmp_path / "stopped")
    for done in (1, 4):
        result = run_pipeline(stopped, random_examples(8), should_stop=stop_after(done))
        assert not result.outcome.finished
        assert result.output is None
    resumed = run_pipeline(stopped, random_examples(8)).output
    assert unbroken is not None
    assert resumed is not None
    one, other = (load_file(output / "adapter_model.safetensors") for output in (unbroken, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_run_writes_a_model(config: PipelineConfig, base_directory: Path) -> None:
    full = replace(config, lora=None, train=replace(config.train, sample_every=0), checkpointing=True)
    result = run_pipeline(full, random_examples(8))
    assert result.output == config.out / "model"
    before, after = (load_file(each / "model.safetensors") for each in (base_directory, result.output))
    assert before.keys() == after.keys()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {name for name in before if name.startswith("codec_model.")}
    assert run_pipeline(full, random_examples(8)).output == result.output  # a finished run can be repeated


@pytest.mark.parametrize("other", [{"step_positions": 260}, {"lora": LoraSettings(rank=5)}, {"prompt_share": 0.0}])
def test_changed_options_are_refused_on_resume(config: PipelineConfig, other: dict[str, Any]) -> None:
    run_pipeline(config, random_examples(8), should_stop=stop_after(1))
    with pytest.raises(ResumeError, match="holds 1 steps of a run with"):
        run_pipeline(replace(config, **other), random_examples(8))


def test_changed_clips_are_refused_on_resume(config: PipelineConfig) -> None:
    run_pipeline(config, random_examples(8), should_stop=stop_after(1))
    with pytest.raises(ResumeError, match="with clips"):
        run_pipeline(config, random_examples(8, seed=1))


def test_one_clip_is_enough_and_none_is_refused(config: PipelineConfig) -> None:
    one = replace(config, train=replace(config.train, steps=2))
    assert run_pipeline(one, random_examples(1)).outcome.finished
    with pytest.raises(TrainingError, match="no clips"):
        run_pipeline(config, [])


@pytest.mark.parametrize("wrong", [{"held_out": 1.5}, {"prompt_share": -0.1}, {"step_positions": 0}])
def test_invalid_options_are_refused(config: PipelineConfig, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(config, **wrong)
