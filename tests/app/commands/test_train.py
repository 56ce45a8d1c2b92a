"""csm-serve train and csm-serve merge: what they are told, and what they tell."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from app import cli
from app.commands import train
from engine import EngineConfig, load_encoder, random_checkpoint
from tests.training.sounds import speech, write_wav
from training.codes import prepare_codes
from training.dataset_validation import check
from training.manifest import read_manifest
from training.pipeline import Pipeline
from training.settings import TrainSettings


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_PATH", "tiny")
    monkeypatch.setenv("DEVICE", "cpu")
    return tmp_path


def course_of(*arguments: str) -> Pipeline:
    parsed = cli._parser().parse_args(["train", "--data", "prepared", "--out", "run", *arguments])
    return train._course(parsed, "tiny")


def test_its_defaults_are_those_of_the_settings() -> None:
    ours, theirs = course_of().train, TrainSettings()
    other = {field.name for field in fields(ours) if getattr(ours, field.name) != getattr(theirs, field.name)}
    assert other == {"learning_rate", "precision", "evaluate_every", "sample_every"}


def test_lora_or_everything() -> None:
    lora, full = course_of("--lora-rank", "7", "--heads"), course_of("--full")
    assert lora.lora is not None
    assert (lora.lora.rank, lora.lora.heads, full.lora) == (7, True, None)
    assert full.train.learning_rate < lora.train.learning_rate


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--full", "--heads"], "--heads stands beside LoRA"),
        (["--lora-rank", "0"], "rank is 0"),
        (["--steps", "0"], "steps is 0, but must be at least 1"),
        (["--held-out", "2"], "held_out is 2.0"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_read(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert cli.main(["train", "--data", "prepared", "--out", "run", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "command", [["train", "--data", "prepared", "--out", "run"], ["merge", "--adapter", "a", "out"]]
)
def test_a_missing_package_is_told_with_what_brings_it(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    for name in [name for name in sys.modules if name == "training.lora" or name.startswith("training.lora.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("training.pipeline", "training.merge", "training.samples"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not there
    assert cli.main(command) == 1
    told = capsys.readouterr().err
    assert "peft is not there" in told
    assert "pip install 'csm-serve[train]'" in told


def test_data_that_nobody_prepared_is_told(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--data", "recordings", "--out", "run"]) == 1
    assert "make it with `csm-serve prepare" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_from_recordings_to_what_model_path_serves(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_checkpoint.write_checkpoint(elsewhere / "tiny", random_checkpoint.build_model(random_checkpoint.TINY))
    other = random_checkpoint.build_model(random_checkpoint.TINY, seed=1)
    random_checkpoint.write_checkpoint(elsewhere / "other", other)
    recordings = elsewhere / "recordings"
    recordings.mkdir()
    for number in range(3):
        write_wav(recordings / f"{number}.wav", speech(2.0 + number / 2, seed=number))
        (recordings / f"{number}.txt").write_text(f"These are the words of number {number}.")
    report = check(read_manifest(recordings), 30.0)
    encoder = load_encoder(EngineConfig("tiny", device="cpu"))
    prepare_codes(report.clips, report.speakers, elsewhere / "prepared", encoder)

    command = [
        "train",
        "--data",
        "prepared",
        "--out",
        "run",
        "--lora-rank",
        "4",
        "--log-every",
        "2",
        "--save-every",
        "1",
    ]
    assert cli.main([*command, "--steps", "4", "--minutes", "0"]) == 0
    assert "1 of 4 steps are done; the same command goes on." in capsys.readouterr().err
    assert cli.main([*command, "--steps", "4"]) == 0
    told = capsys.readouterr()
    assert [json.loads(line)["step"] for line in told.out.splitlines()] == [2, 4]
    assert "csm-serve merge --base tiny --adapter run/adapter NEW" in told.err
    assert cli.main([*command, "--steps", "8", "--seed", "9"]) == 1
    assert "seed 0 (now 9)" in capsys.readouterr().err
    assert cli.main([*command, "--model", "other"]) == 1
    assert "another codec than other has" in capsys.readouterr().err

    assert cli.main(["merge", "--adapter", "run/adapter", "served"]) == 0
    assert capsys.readouterr().out == "served is there: MODEL_PATH=served csm-serve serve\n"
    assert (elsewhere / "served/tokenizer.json").is_file()
    assert cli.main(["merge", "--adapter", "run/adapter", "served"]) == 1
    assert "served: is there already; name a new directory" in capsys.readouterr().err
    assert cli.main(["merge", "--base", "other", "--adapter", "run/adapter", "new"]) == 1
    assert "whose weights are others" in capsys.readouterr().err


def test_asked_to_end_it_ends_behind_the_step_and_asked_again_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = train._Stop()
    with stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping behind this step" in capsys.readouterr().err
