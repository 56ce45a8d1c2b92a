"""The subtitle file of `csm-serve speak`, beside its audio."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast, get_args

from csm_serve_client import Mark

from ..audio.timeline import ChunkMark, WordMark
from ..responses.subtitles import SubtitleEncoder, Subtitles
from .audio_sink import FileSink


def subtitle_path(path: str) -> Path:
    """The path of a subtitle file. Raises ArgumentTypeError if its extension is not of a kind of subtitles."""
    kinds = get_args(Subtitles)
    if _kind_of(Path(path)) not in kinds:
        raise argparse.ArgumentTypeError(f"{path}: the extension must be {' or '.join(f'.{each}' for each in kinds)}")
    return Path(path)


def _kind_of(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


@contextmanager
def open_subtitles(path: Path | None, speakers: Sequence[str] = ()) -> Iterator[SubtitleFile | None]:
    """The file at a path, which appears once the `with` block has ended without an exception; None without a path.

    speakers: of each turn of a dialogue.
    """
    if path is None:
        yield None
        return
    kind = cast(Subtitles, _kind_of(path))
    sink = FileSink(path, kind)
    try:
        subtitles = SubtitleFile(sink, SubtitleEncoder(kind, speakers))
        yield subtitles
        subtitles.finish()
    except BaseException:
        sink.abort()
        raise


class SubtitleFile:
    """Subtitles of successive texts, whose audio is one."""

    def __init__(self, sink: FileSink, encoder: SubtitleEncoder) -> None:
        self._sink = sink
        self._encoder = encoder

    def write(self, marks: Iterable[Mark], at: float) -> None:
        """Add the marks of one text. at: seconds of the audio before it."""
        for mark in marks:
            self._sink.write(self._encoder.mark(_moved(mark, at)))

    def finish(self) -> None:
        self._sink.write(self._encoder.flush())
        self._sink.finish()


def _moved(mark: Mark, at: float) -> ChunkMark:
    words = tuple(
        WordMark(
            each.text,
            each.text_start,
            each.text_end,
            each.spoken,
            at + each.start_ms / 1000,
            at + each.end_ms / 1000,
            each.estimated,
        )
        for each in mark.words
    )
    return ChunkMark(words, (), at + mark.start_ms / 1000, at + mark.end_ms / 1000, mark.turn, mark.voice_id)
