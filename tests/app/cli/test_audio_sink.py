from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from app.audio.encoders import FORMATS
from app.audio.encoders.wav import wav_header
from app.cli.audio_sink import format_of, open_sink
from app.cli.exit_status import CommandFailed, ExitStatus


@pytest.mark.parametrize("name", FORMATS)
def test_every_formats_extension_selects_it(name: str) -> None:
    first = name.partition("_")[0] if name.startswith("wav") else name  # .wav is plain wav, whatever it may hold
    assert format_of(Path(f"a.b.{FORMATS[name].extension.upper()}")) == first


@pytest.mark.parametrize("name", ["speech", "speech.txt", "wav", ".wav"])
def test_an_unknown_extension_is_reported(name: str) -> None:
    with pytest.raises(CommandFailed, match="--format") as caught:
        format_of(Path(name))
    assert caught.value.status == ExitStatus.USAGE


def test_a_file_appears_once_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    with open_sink(str(path), None) as sink:
        sink.write(wav_header(None))
        sink.write(b"1234")
        assert not path.exists()
    assert path.read_bytes() == wav_header(4) + b"1234"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [name for name in FORMATS if name.startswith("wav")])
def test_the_sizes_of_a_wav_file_are_filled_in(name: str, tmp_path: Path) -> None:
    encoder = FORMATS[name].create_encoder()
    with open_sink(str(tmp_path / "out.wav"), name) as sink:
        sink.write(encoder.encode(np.zeros(24_000, np.float32)))
        sink.write(encoder.flush())
    data = (tmp_path / "out.wav").read_bytes()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    with av.open(str(tmp_path / "out.wav")) as file:
        stream = file.streams.audio[0]
        assert stream.duration == stream.rate == FORMATS[name].sample_rate  # one second


def test_a_sample_rate_without_a_file_is_a_usage_error() -> None:
    with pytest.raises(CommandFailed, match="-o"), open_sink(None, None, 8_000):
        pytest.fail("it was opened")


def test_an_existing_file_is_unchanged_on_abort(tmp_path: Path) -> None:
    path = tmp_path / "out.mp3"
    path.write_bytes(b"older")
    with suppress(KeyboardInterrupt), open_sink(str(path), None) as sink:
        sink.write(b"newer")
        raise KeyboardInterrupt
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("out.mp3", b"older")]


def test_a_symbolic_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "link.pcm").symlink_to("target.pcm")
    with open_sink(str(tmp_path / "link.pcm"), None) as sink:
        sink.write(b"12")
    assert (tmp_path / "link.pcm").is_symlink()
    assert (tmp_path / "target.pcm").read_bytes() == b"12"


def test_format_overrides_the_extension(tmp_path: Path) -> None:
    with open_sink(str(tmp_path / "out.wav"), "raw_pcm") as sink:
        sink.write(b"12")
    assert (tmp_path / "out.wav").read_bytes() == b"12"


def test_a_missing_directory_fails_on_opening(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_sink(str(tmp_path / "no" / "out.wav"), None):
        pytest.fail("it was open_sink")


def test_a_named_pipe_is_written_directly(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with open_sink(str(path), None) as sink:
        sink.write(wav_header(None) + b"12")
    reader.join(60)
    assert path.is_fifo()
    assert got == [wav_header(None) + b"12"]


def test_a_format_without_a_file_is_a_usage_error() -> None:
    with pytest.raises(CommandFailed, match="-o") as caught, open_sink(None, "mp3"):
        pytest.fail("it was open_sink")
    assert caught.value.status == ExitStatus.USAGE
