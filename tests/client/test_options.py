from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from csm_serve_client import AudioFormat, SpeechOptions, reference

from app.audio.encoders import FORMATS
from app.cli.main import _parser
from app.schemas.speech import SpeechBody

# Separate arguments, an alias, and what answers with a text in place of the audio that the client reads.
OTHERS = {"text", "voice_id", "format", "chunk_overlap_strategy", "subtitles"}


def test_every_parameter_of_the_service_is_an_option() -> None:
    assert SpeechOptions.__annotations__.keys() == SpeechBody.model_fields.keys() - OTHERS


def test_every_format_of_the_service_is_an_audio_format() -> None:
    assert get_args(AudioFormat) == tuple(FORMATS)


def test_the_client_imports_no_heavy_packages() -> None:
    program = (
        "import sys, csm_serve_client; print(sorted({'fastapi', 'torch', 'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=110, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(("arguments", "expected"), [([], None), (["--normalize", "off"], False)])
def test_normalisation_can_be_switched_off_on_the_command_line(arguments: list[str], expected: bool | None) -> None:
    assert _parser().parse_args(["speak", "Hi", *arguments]).normalize is expected


def test_a_switch_is_on_or_off(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["speak", "Hi", "--normalize", "perhaps"])
    assert "'perhaps' is neither on nor off" in capsys.readouterr().err


def test_a_lexicon_is_read_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lexicon"
    file.write_text("sql = sequel\n", encoding="utf-8")
    assert _parser().parse_args(["speak", "Hi", "--lexicon", str(file)]).lexicon == {"sql": "sequel"}
    with pytest.raises(SystemExit):
        _parser().parse_args(["speak", "Hi", "--lexicon", str(tmp_path / "none")])
    assert "none cannot be read: No such file" in capsys.readouterr().err


def test_a_reference_is_read_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "amy.wav"
    file.write_bytes(b"RIFF\xff")
    assert reference(file, "Its words.") == {"audio": "UklGRv8=", "transcript": "Its words."}
    assert _parser().parse_args(["speak", "Hi", "--reference", str(file)]).reference == reference(b"RIFF\xff")
    with pytest.raises(SystemExit):
        _parser().parse_args(["speak", "Hi", "--reference", str(tmp_path / "none")])
    assert "none cannot be read: No such file" in capsys.readouterr().err
