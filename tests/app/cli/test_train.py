"""csm-serve train and csm-serve merge: options, messages and results."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from app.cli import main as cli
from app.cli import train
from engine import EngineConfig, load_encoder, random_checkpoint
from tests.training.synthetic_audio import speech, write_wav
from training.codes import prepare_codes
from training.dataset_validation import validate_dataset
from training.manifest import read_manifest
from training.pipeline import PipelineConfig
from training.settings import TrainSettings


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_PATH", "tiny")
    monkeypatch.setenv("DEVICE", "cpu")
    return tmp_path


def config_of(*arguments: str) -> PipelineConfig:
    parsed = cli._parser().parse_args(["train", "--data", "prepared", "--out", "run", *arguments])
    return train._pipeline_config(parsed, "tiny")


def test_cli_defaults_match_train_settings() -> None:
    actual, defaults = config_of().train, TrainSettings()
    other = {field.name for field in fields(actual) if getattr(actual, field.name) != getattr(defaults, field.name)}
    assert other == {"learning_rate", "precision", "evaluate_every", "sample_every"}


def test_lora_or_full_training() -> None:
    lora, full = config_of("--lora-rank", "7", "--heads"), config_of("--full")
    assert lora.lora is not None
    assert (lora.lora.rank, lora.lora.heads, full.lora) == (7, True, None)
    assert full.train.learning_rate < lora.train.learning_rate


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--full", "--heads"], "--heads requires LoRA"),
        (["--lora-rank", "0"], "rank is 0"),
        (["--steps", "0"], "steps is 0, but must be at least 1"),
        (["--held-out", "2"], "held_out is 2.0"),
    ],
)
def test_invalid_options_are_reported_before_reading_data(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["train", "--data", "prepared", "--out", "run", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(workspace.iterdir()) == []


def test_a_missing_package_is_reported_with_its_install_command(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == "training.lora" or name.startswith("training.lora.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("training.pipeline", "training.samples"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)  # import fails
    assert cli.main(["train", "--data", "prepared", "--out", "run"]) == 1
    message = capsys.readouterr().err
    assert "package peft, which is not installed" in message
    assert "pip install 'csm-serve[train]'" in message


def test_unprepared_data_is_reported(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--data", "recordings", "--out", "run"]) == 1
    assert "create it with `csm-serve prepare" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_from_recordings_to_a_merged_checkpoint(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    random_checkpoint.write_checkpoint(workspace / "tiny", random_checkpoint.build_model(random_checkpoint.TINY))
    other = random_checkpoint.build_model(random_checkpoint.TINY, seed=1)
    random_checkpoint.write_checkpoint(workspace / "other", other)
    recordings = workspace / "recordings"
    recordings.mkdir()
    for number in range(3):
        write_wav(recordings / f"{number}.wav", speech(2.0 + number / 2, seed=number))
        (recordings / f"{number}.txt").write_text(f"These are the words of number {number}.")
    report = validate_dataset(read_manifest(recordings), 30.0)
    encoder = load_encoder(EngineConfig("tiny", device="cpu"))
    prepare_codes(report.clips, report.speakers, workspace / "prepared", encoder)

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
    assert "1 of 4 steps done; run the same command to resume." in capsys.readouterr().err
    assert cli.main([*command, "--steps", "4"]) == 0
    message = capsys.readouterr()
    assert [json.loads(line)["step"] for line in message.out.splitlines()] == [2, 4]
    assert "MODEL_PATH=run/adapter csm-serve serve" in message.err
    assert "csm-serve merge --adapter run/adapter NEW" in message.err
    assert cli.main([*command, "--steps", "8", "--seed", "9"]) == 1
    assert "seed 0 (now 9)" in capsys.readouterr().err
    assert cli.main([*command, "--model", "other"]) == 1
    assert "from another codec than other's" in capsys.readouterr().err

    monkeypatch.setenv("MODEL_PATH", "other")  # the run knows its base
    assert cli.main(["merge", "--adapter", "run/adapter", "served"]) == 0
    assert capsys.readouterr().out == "Wrote served. To serve it: MODEL_PATH=served csm-serve serve\n"
    assert (workspace / "served/tokenizer.json").is_file()
    assert cli.main(["merge", "--adapter", "run/adapter", "served"]) == 1
    assert "served: already exists; name a new directory" in capsys.readouterr().err
    assert cli.main(["merge", "--base", "other", "--adapter", "run/adapter", "new"]) == 1
    assert "whose weights differ" in capsys.readouterr().err


def test_the_first_signal_sets_the_flag_and_restores_the_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = train._StopSignal()
    with stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step" in capsys.readouterr().err
