"""Progress line on a terminal."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

_CLEAR = "\r\x1b[K"
_INTERVAL = 0.1  # minimum seconds between updates


class Progress:
    """Rewrites one line of a terminal; on anything else it writes nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._due = 0.0

    def show(self, text: str, *, force: bool = False) -> None:
        """Update the line unless it was updated just before. force: always."""
        now = time.monotonic()
        if self._shown and (force or now >= self._due):
            self._due = now + _INTERVAL
            self._write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])

    def end(self, text: str) -> None:
        """Replace the line by a final one that stays."""
        if self._shown:
            self._write(f"{_CLEAR}{text}\n")

    def clear(self) -> None:
        if self._shown:
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
