from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from app.cli.audio_sink import open_sink
from app.cli.exit_status import CommandFailed
from app.cli.player import PLAYERS, Player, find_player


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cat").symlink_to(str(shutil.which("cat")))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_without_a_player_the_packages_are_named(programs: Path) -> None:
    with pytest.raises(CommandFailed, match=r"ffplay .*aplay .*paplay .*-o speech\.wav"):
        find_player()


@pytest.mark.parametrize("player", PLAYERS, ids=lambda player: player.name)
def test_each_player_gets_its_format(player: Player, programs: Path, tmp_path: Path) -> None:
    install(programs, player.name, f'echo "$@" > {tmp_path}/arguments; cat > {tmp_path}/played')
    with open_sink(None, None) as sink:
        assert sink.format == player.format
        sink.write(b"one")
        sink.write(b"two")
    assert (tmp_path / "played").read_bytes() == b"onetwo"
    assert (tmp_path / "arguments").read_text().split() == player.command.split()[1:]


def test_a_player_error_includes_its_stderr(programs: Path) -> None:
    install(programs, "aplay", "echo no such device >&2; exit 3")

    def play_for_ever() -> None:
        with open_sink(None, None) as sink:
            while True:
                sink.write(bytes(100_000))

    with pytest.raises(CommandFailed, match=r"aplay cannot play: no such device.*-o"):
        play_for_ever()


def test_a_player_that_fails_at_the_end_is_reported(programs: Path) -> None:
    install(programs, "paplay", "cat > /dev/null; exit 7")
    with pytest.raises(CommandFailed, match="status 7"), open_sink(None, None) as sink:
        sink.write(b"12")


def test_an_interrupt_kills_the_player(programs: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    install(programs, "aplay", f"echo $$ > {tmp_path}/pid; while :; do :; done")
    with suppress(KeyboardInterrupt), open_sink(None, None):
        pid = int((tmp_path / "pid").read_text())
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
