"""A line on the terminal that says how far something is."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

_CLEAR = "\r\x1b[K"
_BETWEEN = 0.1  # seconds: quicker than anybody reads


class Progress:
    """Rewrites one line of a terminal; on anything else it writes nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._due = 0.0

    def show(self, text: str, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._shown and (at_once or now >= self._due):
            self._due = now + _BETWEEN
            self._write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])

    def end(self, text: str) -> None:
        """The last words, which stay."""
        if self._shown:
            self._write(f"{_CLEAR}{text}\n")

    def clear(self) -> None:
        if self._shown:
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
