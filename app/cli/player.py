"""Plays audio while it is streamed, through an installed player program."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass

from .exit_status import CommandFailed


@dataclass(frozen=True)
class Player:
    """A program that plays its standard input. format: the audio format it expects."""

    name: str
    package: str
    command: str
    format: str


_FFPLAY = "ffplay -nodisp -autoexit -loglevel error -fflags nobuffer -probesize 32 -analyzeduration 0 -f wav -i pipe:0"
PLAYERS = (
    Player("ffplay", "ffmpeg", _FFPLAY, "wav"),  # its options for raw samples differ between versions
    Player("aplay", "alsa-utils", "aplay -q -t raw -f S16_LE -r 24000 -c 1 -", "raw_pcm"),
    Player("paplay", "pulseaudio-utils", "paplay --raw --format=s16le --rate=24000 --channels=1", "raw_pcm"),
)


def find_player() -> Player:
    """The first installed player. Raises CommandFailed if there is none."""
    for player in PLAYERS:
        if shutil.which(player.name):
            return player
    names = ", ".join(f"{each.name} (package {each.package})" for each in PLAYERS)
    raise CommandFailed(f"no audio player is installed: install one of {names}, or write a file with -o speech.wav")


class PlayerSink:
    """An `AudioSink` that feeds a player; writing blocks while the player's buffer is full."""

    def __init__(self, player: Player) -> None:
        self.format = player.format
        self._name = player.name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by finish and abort
        try:
            self._process = subprocess.Popen(
                player.command.split(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
            )
        except OSError:
            self._stderr.close()
            raise

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def finish(self) -> None:
        """Wait until everything has been played."""
        self._close()
        if self._process.wait():
            raise self._failure()
        self._stderr.close()

    def abort(self) -> None:
        """Stop playing immediately."""
        self._process.kill()
        self._close()
        self._process.wait()
        self._stderr.close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _failure(self) -> CommandFailed:
        self._close()
        status = self._process.wait()
        self._stderr.seek(0)
        reason = self._stderr.read().decode(errors="replace").strip() or f"it ended with status {status}"
        return CommandFailed(f"{self._name} cannot play: {reason}; -o speech.wav writes a file instead")
