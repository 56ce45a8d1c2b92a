"""From clips and a checkpoint to what MODEL_PATH serves, with all that one looks at meanwhile."""

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
from training.pipeline import Pipeline, run_pipeline
from training.run_log import read_log

from .chance import SHORT, clips_of_chance

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def course(base_directory: Path, tmp_path: Path) -> Pipeline:
    settings = replace(SHORT, steps=6, evaluate_every=3, sample_every=4)
    return Pipeline(
        str(base_directory), tmp_path / "out", settings, LoraSettings(rank=4), step_positions=250, held_out=0.25
    )


def once(done: int) -> Callable[[], bool]:
    """Stops behind so many steps."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= done


def test_a_course_leaves_an_adapter_and_all_that_one_looks_at(course: Pipeline, tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    threads = torch.get_num_threads()
    result = run_pipeline(course, clips_of_chance(8), logged=told.append)
    assert result.outcome.finished
    assert result.made == course.out / "adapter"
    assert torch.get_num_threads() == threads
    assert sorted(path.name for path in course.out.iterdir()) == [
        "adapter", "log.jsonl", "loss.png", "samples", "state", "tensorboard",
    ]  # fmt: skip
    assert told == read_log(course.out / "log.jsonl")
    assert [line["step"] for line in told if "held_out_depth" in line] == [3, 6]
    assert (course.out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (course.out / "samples").iterdir()] == ["step-000004.wav"]
    with wave.open(str(course.out / "samples/step-000004.wav")) as sample:
        assert (sample.getframerate(), sample.getnchannels(), sample.getsampwidth()) == (24000, 1, 2)
        assert sample.getnframes() % 1920 == 0
        assert sample.getnframes() > 0
    events = EventAccumulator(str(course.out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("first")] == [2, 4, 6]

    served = merge(course.model, result.made, tmp_path / "served")
    engine = load_engine(EngineConfig(str(served), device="cpu", dtype="float32", slots=1))
    try:
        assert len(engine.generate(SpeechRequest("Hello.", seed=1, max_frames=3)).codes) <= 3
    finally:
        engine.close()


def test_a_course_that_was_stopped_ends_as_one_that_was_not(course: Pipeline, tmp_path: Path) -> None:
    unbroken = run_pipeline(course, clips_of_chance(8)).made
    broken = replace(course, out=tmp_path / "broken")
    for done in (1, 4):
        result = run_pipeline(broken, clips_of_chance(8), stop=once(done))
        assert not result.outcome.finished
        assert result.made is None
    resumed = run_pipeline(broken, clips_of_chance(8)).made
    assert unbroken is not None
    assert resumed is not None
    one, other = (load_file(made / "adapter_model.safetensors") for made in (unbroken, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_course_of_everything_leaves_a_model(course: Pipeline, base_directory: Path) -> None:
    full = replace(course, lora=None, train=replace(course.train, sample_every=0), checkpointing=True)
    result = run_pipeline(full, clips_of_chance(8))
    assert result.made == course.out / "model"
    before, after = (load_file(each / "model.safetensors") for each in (base_directory, result.made))
    assert before.keys() == after.keys()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {name for name in before if name.startswith("codec_model.")}
    assert run_pipeline(full, clips_of_chance(8)).made == result.made  # once more, and it is there once more


@pytest.mark.parametrize("other", [{"step_positions": 260}, {"lora": LoraSettings(rank=5)}, {"heard_share": 0.0}])
def test_another_course_is_not_gone_on_with(course: Pipeline, other: dict[str, Any]) -> None:
    run_pipeline(course, clips_of_chance(8), stop=once(1))
    with pytest.raises(ResumeError, match="holds 1 steps of a run with"):
        run_pipeline(replace(course, **other), clips_of_chance(8))


def test_other_clips_are_another_course(course: Pipeline) -> None:
    run_pipeline(course, clips_of_chance(8), stop=once(1))
    with pytest.raises(ResumeError, match="with clips"):
        run_pipeline(course, clips_of_chance(8, seed=1))


def test_one_clip_is_enough_and_none_is_not(course: Pipeline) -> None:
    one = replace(course, train=replace(course.train, steps=2))
    assert run_pipeline(one, clips_of_chance(1)).outcome.finished
    with pytest.raises(TrainingError, match="no clips"):
        run_pipeline(course, [])


@pytest.mark.parametrize("wrong", [{"held_out": 1.5}, {"heard_share": -0.1}, {"step_positions": 0}])
def test_what_cannot_be_is_told(course: Pipeline, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(course, **wrong)
