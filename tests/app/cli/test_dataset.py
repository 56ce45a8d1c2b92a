"""csm-serve prepare and csm-serve cut: output and exit status."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from app.cli import dataset
from app.cli import main as cli
from engine import SAMPLE_RATE, CheckpointNotFound, EngineConfig
from engine.types import Codes, Samples
from tests.training.synthetic_audio import speech, write_wav
from training.codes import read_codes


class Encoder:
    codebooks, codebook_size, fingerprint = 2, 64, "some codec"

    def encode(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> Codes:
        return np.ones((-(-samples.size // 1920), 2), dtype=np.int64)


@pytest.fixture
def codec_configs(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    """Configurations of the loaded codecs."""
    configs: list[EngineConfig] = []

    def load_encoder(config: EngineConfig) -> Encoder:
        configs.append(config)
        return Encoder()

    monkeypatch.setattr(dataset, "load_encoder", load_encoder)
    return configs


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two valid recordings and one without a transcript."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two", "wordless")):
        write_wav(Path(f"in/{name}.wav"), speech(2.0, seed=seed))
    Path("in/metadata.csv").write_text("file,text\none.wav,These are words.\ntwo.wav,So are these.\nwordless.wav,\n")
    return tmp_path


def add_transcript() -> None:
    metadata = Path("in/metadata.csv")
    metadata.write_text(metadata.read_text().replace("wordless.wav,", "wordless.wav,Now it has some."))


def test_errors_are_listed_and_nothing_is_written(
    workspace: Path, codec_configs: list[EngineConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["out"], ["--check"]):
        assert cli.main(["prepare", "in", *arguments]) == 1
        output = capsys.readouterr()
        assert "error: wordless.wav (metadata.csv, line 4): has no transcript" in output.err
        assert "--leave-out" in output.err
        assert "2 clips can be used" in output.out
    assert (codec_configs, Path("out").exists()) == ([], False)


def test_leave_out_skips_recordings_with_errors(workspace: Path, codec_configs: list[EngineConfig]) -> None:
    assert cli.main(["prepare", "in", "out", "--leave-out"]) == 0
    assert [example.name for example in read_codes(Path("out"))] == ["one.wav", "two.wav"]


def test_recordings_with_warnings_are_encoded(
    workspace: Path, codec_configs: list[EngineConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    add_transcript()
    write_wav(Path("in/two.wav"), speech(2.0, seed=1), rate=16_000)
    assert cli.main(["prepare", "in", "--check"]) == 0
    assert codec_configs == []
    assert cli.main(["prepare", "in", "out"]) == 0
    output = capsys.readouterr()
    assert "warning: two.wav" in output.err
    assert "3 encoded, 0 reused" in output.out
    assert cli.main(["prepare", "in", "out"]) == 0
    assert "0 encoded, 3 reused" in capsys.readouterr().out


def test_the_model_option_overrides_model_path(
    workspace: Path, codec_configs: list[EngineConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_transcript()
    assert cli.main(["prepare", "in", "out"]) == 0  # works without API_KEY: only the service needs it
    monkeypatch.setenv("MODEL_PATH", "somewhere")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli.main(["prepare", "in", "out"]) == 0
    assert cli.main(["prepare", "in", "out", "--model", "elsewhere"]) == 0
    assert [config.model for config in codec_configs] == ["sesame/csm-1b", "somewhere", "elsewhere"]
    assert codec_configs[1].hub_token == "hf_secret"


def test_a_missing_model_is_reported_in_one_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_encoder(config: EngineConfig) -> Encoder:
        raise CheckpointNotFound(f"{config.model}: there is no such directory")

    monkeypatch.setattr(dataset, "load_encoder", load_encoder)
    add_transcript()
    assert cli.main(["prepare", "in", "out", "--model", "./nowhere"]) == 1
    assert capsys.readouterr().err == "csm-serve: ./nowhere: there is no such directory\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["prepare", "in"], 2), (["prepare", "in", "out", "--check"], 2), (["prepare", "nowhere", "--check"], 1)],
)
def test_invalid_commands_are_reported(
    arguments: list[str], status: int, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == status
    assert capsys.readouterr().err.count("\n") == 1


def test_long_recordings_are_cut_and_missing_transcripts_are_reported(
    workspace: Path, codec_configs: list[EngineConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(Path("in/wordless.wav"), speech(9.0, (4.0,)))
    assert cli.main(["cut", "in", "new", "--max-seconds", "6"]) == 0
    output = capsys.readouterr()
    assert "new: 4 recordings, 2 of them without a transcript" in output.out
    assert "new/metadata.csv" in output.out
    with Path("new/metadata.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file) if not row["text"]] == [
            "wordless-001.wav",
            "wordless-002.wav",
        ]
    assert cli.main(["prepare", "new", "out", "--leave-out"]) == 0
    assert len(read_codes(Path("out"))) == 2
    assert cli.main(["cut", "in", "new"]) == 1
    assert "name a new folder" in capsys.readouterr().err
