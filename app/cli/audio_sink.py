"""Where speech goes: a file, a pipe, the loudspeaker."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from ..audio.encoders.formats import FORMATS
from ..audio.encoders.wav import HEADER_BYTES, wav_header
from .exit_status import CommandFailed, ExitStatus
from .player import Loudspeaker, find_player

STDOUT = "-"
_EXTENSIONS = {
    **{each.extension: name for name, each in FORMATS.items()},
    "m4a": "fmp4",
    "ogg": "opus",
    "oga": "opus",
    "raw": "raw_pcm",
}


class AudioSink(Protocol):
    """format: of the bytes that it takes."""

    format: str

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """That was all of it."""
        ...

    def abandon(self) -> None:
        """It will never be whole."""
        ...


@contextmanager
def opened(target: str | None, audio_format: str | None) -> Iterator[AudioSink]:
    """The outlet that the options name. What leaves the `with` by an error was not whole.

    target: a file, `-` for stdout, None for the loudspeaker. audio_format: None follows the file's extension.
    Raises CommandFailed.
    """
    outlet = _outlet(target, audio_format)
    try:
        yield outlet
        outlet.finish()
    except BaseException:
        outlet.abandon()
        raise


def _outlet(target: str | None, audio_format: str | None) -> AudioSink:
    if target is None:
        if audio_format is not None:
            raise CommandFailed("--format says how a file is written: name the file with -o", ExitStatus.USAGE)
        return Loudspeaker(find_player())
    if target == STDOUT:
        if sys.stdout.isatty():
            raise CommandFailed(
                "stdout is a terminal, which cannot show audio: pipe it on, or name a file", ExitStatus.USAGE
            )
        return Pipe(os.fdopen(os.dup(sys.stdout.fileno()), "wb"), audio_format or "wav")
    path = Path(target)
    chosen = audio_format or format_of(path)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        return Pipe(path.open("wb"), chosen)
    return File(path, chosen)


def format_of(path: Path) -> str:
    """The format that a file's extension stands for. Raises CommandFailed if there is none."""
    try:
        return _EXTENSIONS[path.suffix.lower().removeprefix(".")]
    except KeyError:
        raise CommandFailed(
            f"{path.name}: its extension is none of {', '.join(_EXTENSIONS)}; --format names the format",
            ExitStatus.USAGE,
        ) from None


class Pipe:
    """A stream that somebody else reads as it is written. Its end is theirs too, whole or not: the status tells."""

    def __init__(self, stream: BinaryIO, audio_format: str) -> None:
        self.format = audio_format
        self._stream = stream

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()

    def finish(self) -> None:
        self._stream.close()

    def abandon(self) -> None:
        with suppress(BrokenPipeError):
            self._stream.close()


class File:
    """A file that appears under its name once it is whole; until then one that was there stays what it is."""

    def __init__(self, path: Path, audio_format: str) -> None:
        self.format = audio_format
        self._path = path.resolve()  # a link stays a link
        self._part = self._path.with_name(f".{path.name}.{os.getpid()}.part")
        self._stream = self._part.open("xb")

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def finish(self) -> None:
        if self.format == "wav":
            length = self._stream.tell() - HEADER_BYTES
            self._stream.seek(0)
            self._stream.write(wav_header(length))
        self._stream.close()
        self._part.replace(self._path)

    def abandon(self) -> None:
        with suppress(OSError):  # what could not be written may be why
            self._stream.close()
        self._part.unlink(missing_ok=True)
