from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from app.audio.encoders import FORMATS
from app.audio.encoders.wav import wav_header
from app.cli.audio_sink import format_of, opened
from app.cli.exit_status import CommandFailed, ExitStatus


@pytest.mark.parametrize("name", FORMATS)
def test_the_extension_of_every_format_names_it(name: str) -> None:
    assert format_of(Path(f"a.b.{FORMATS[name].extension.upper()}")) == name


@pytest.mark.parametrize("name", ["speech", "speech.txt", "wav", ".wav"])
def test_an_extension_that_says_nothing_is_told(name: str) -> None:
    with pytest.raises(CommandFailed, match="--format") as caught:
        format_of(Path(name))
    assert caught.value.status == ExitStatus.USAGE


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    with opened(str(path), None) as outlet:
        outlet.write(wav_header(None))
        outlet.write(b"1234")
        assert not path.exists()
    assert path.read_bytes() == wav_header(4) + b"1234"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_there_stays_until_then(tmp_path: Path) -> None:
    path = tmp_path / "out.mp3"
    path.write_bytes(b"older")
    with suppress(KeyboardInterrupt), opened(str(path), None) as outlet:
        outlet.write(b"newer")
        raise KeyboardInterrupt
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("out.mp3", b"older")]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.pcm").symlink_to("target.pcm")
    with opened(str(tmp_path / "link.pcm"), None) as outlet:
        outlet.write(b"12")
    assert (tmp_path / "link.pcm").is_symlink()
    assert (tmp_path / "target.pcm").read_bytes() == b"12"


def test_format_wins_over_the_extension(tmp_path: Path) -> None:
    with opened(str(tmp_path / "out.wav"), "raw_pcm") as outlet:
        outlet.write(b"12")
    assert (tmp_path / "out.wav").read_bytes() == b"12"


def test_a_folder_that_is_not_there_is_told_before_anything_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), opened(str(tmp_path / "no" / "out.wav"), None):
        pytest.fail("it was opened")


def test_a_named_pipe_is_fed_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with opened(str(path), None) as outlet:
        outlet.write(wav_header(None) + b"12")
    reader.join(60)
    assert path.is_fifo()
    assert got == [wav_header(None) + b"12"]


def test_a_format_for_the_loudspeaker_is_told() -> None:
    with pytest.raises(CommandFailed, match="-o") as caught, opened(None, "mp3"):
        pytest.fail("it was opened")
    assert caught.value.status == ExitStatus.USAGE
