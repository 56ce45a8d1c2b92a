"""Audio sinks of `csm-serve speak`: a file, a pipe, or a player."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from csm_serve_client.wav import MAX_HEADER_BYTES, sized_header

from ..audio.encoders.formats import FORMATS
from .exit_status import CommandFailed, ExitStatus
from .player import PlayerSink, find_player

STDOUT = "-"
_EXTENSIONS = {
    **{each.extension: name for name, each in reversed(FORMATS.items())},  # where several share one: the first
    "m4a": "fmp4",
    "ogg": "opus",
    "oga": "opus",
    "raw": "raw_pcm",
    "ul": "mulaw",
    "al": "alaw",
}


class AudioSink(Protocol):
    """Receives encoded audio. format: the audio format of the bytes."""

    format: str

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Complete the output."""
        ...

    def abort(self) -> None:
        """Discard the incomplete output."""
        ...


@contextmanager
def open_sink(target: str | None, audio_format: str | None, sample_rate: int | None = None) -> Iterator[AudioSink]:
    """Open the sink that the options select; an exception in the `with` block aborts it.

    target: a file, `-` for stdout, None for the loudspeaker. audio_format: None uses the file's extension.
    sample_rate: None where the format's default is used, as a player expects it.
    Raises CommandFailed.
    """
    if target is None and sample_rate is not None:
        raise CommandFailed("--sample-rate applies to a file: name the file with -o", ExitStatus.USAGE)
    sink = _make_sink(target, audio_format)
    try:
        yield sink
        sink.finish()
    except BaseException:
        sink.abort()
        raise


def _make_sink(target: str | None, audio_format: str | None) -> AudioSink:
    if target is None:
        if audio_format is not None:
            raise CommandFailed("--format applies to a file: name the file with -o", ExitStatus.USAGE)
        return PlayerSink(find_player())
    if target == STDOUT:
        if sys.stdout.isatty():
            raise CommandFailed(
                "stdout is a terminal, which cannot play audio: pipe it to a program, or name a file", ExitStatus.USAGE
            )
        return PipeSink(os.fdopen(os.dup(sys.stdout.fileno()), "wb"), audio_format or "wav")
    path = Path(target)
    chosen = audio_format or format_of(path)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        return PipeSink(path.open("wb"), chosen)
    return FileSink(path, chosen)


def format_of(path: Path) -> str:
    """The audio format of a file's extension. Raises CommandFailed for an unknown one."""
    try:
        return _EXTENSIONS[path.suffix.lower().removeprefix(".")]
    except KeyError:
        raise CommandFailed(
            f"{path.name}: the extension is not one of {', '.join(_EXTENSIONS)}; use --format",
            ExitStatus.USAGE,
        ) from None


class PipeSink:
    """A pipe to another program, which only the exit status tells that the audio is incomplete."""

    def __init__(self, stream: BinaryIO, audio_format: str) -> None:
        self.format = audio_format
        self._stream = stream

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()

    def finish(self) -> None:
        self._stream.close()

    def abort(self) -> None:
        with suppress(BrokenPipeError):
            self._stream.close()


class FileSink:
    """A file that is renamed into place when complete; until then an existing file is unchanged."""

    def __init__(self, path: Path, audio_format: str) -> None:
        self.format = audio_format
        self._path = path.resolve()  # keeps a symbolic link
        self._part = self._path.with_name(f".{path.name}.{os.getpid()}.part")
        self._stream = self._part.open("x+b")

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def finish(self) -> None:
        length = self._stream.tell()
        self._stream.seek(0)
        head = sized_header(self._stream.read(MAX_HEADER_BYTES), length)  # unchanged if it is not a wav file
        self._stream.seek(0)
        self._stream.write(head)
        self._stream.close()
        self._part.replace(self._path)

    def abort(self) -> None:
        with suppress(OSError):  # flushing may fail, for example on a full disk
            self._stream.close()
        self._part.unlink(missing_ok=True)
