from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.cli.exit_status import CommandFailed
from app.cli.playback import Playback
from app.cli.sound_device import BLOCK_SAMPLES, headset, load_sounddevice, loudspeaker


class PortAudioError(Exception):
    pass


class Stream:
    """A device that asks for one block when it starts."""

    played = bytearray()
    options: dict[str, Any]
    closed = False

    def __init__(self, **options: Any) -> None:
        Stream.options = options

    def start(self) -> None:
        block = bytearray(2 * BLOCK_SAMPLES)
        self.exchange(memoryview(block))
        Stream.played = block

    def exchange(self, block: memoryview) -> None:
        self.options["callback"](block, BLOCK_SAMPLES, None, None)

    def close(self) -> None:
        Stream.closed = True


class Duplex(Stream):
    def exchange(self, block: memoryview) -> None:
        self.options["callback"](memoryview(b"\7" * len(block)), block, BLOCK_SAMPLES, None, None)


class Broken(Stream):
    def start(self) -> None:
        raise PortAudioError("no default device")


def use(monkeypatch: pytest.MonkeyPatch, **streams: type[Stream]) -> None:
    module = SimpleNamespace(PortAudioError=PortAudioError, **streams)
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_the_loudspeaker_plays_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RawOutputStream=Stream)
    playback = Playback()
    playback.add("a", b"\1" * 100)
    with loudspeaker(playback):
        assert Stream.played == b"\1" * 100 + bytes(860)
    assert Stream.closed
    format_ = ("samplerate", "channels", "dtype", "blocksize")
    assert [Stream.options[name] for name in format_] == [24_000, 1, "int16", 480]


def test_a_headset_plays_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RawStream=Duplex)
    playback, heard = Playback(), list[bytes]()
    playback.add("a", b"\1" * 960)
    with headset(playback, heard.append):
        pass
    assert (Stream.played, heard) == (b"\1" * 960, [b"\7" * 960])


def test_a_device_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RawOutputStream=Broken)
    with pytest.raises(CommandFailed, match="no default device"), loudspeaker(Playback()):
        pass


def test_what_is_missing_is_said_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(CommandFailed, match="pip install sounddevice"):
        load_sounddevice()
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CommandFailed, match="libportaudio2"):
        load_sounddevice()
