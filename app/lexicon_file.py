"""The pronunciation lexicon of the service: a file that is read again when it changes."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from engine import InvalidRequest, Lexicon, parse_lexicon

_log = logging.getLogger(__name__)


class LexiconFile:
    """The entries of LEXICON. A changed file that cannot be read is reported once, and its last entries stay."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lexicon: Lexicon | None = None
        self._version: tuple[int, int, int] | None = None  # of the file that was last read
        self._lock = threading.Lock()

    def with_entries(self, own: Lexicon | None) -> Lexicon | None:
        """The file's lexicon with a request's own entries on top. Reads the file if it has changed: may block."""
        base = self._current()
        return Lexicon(own.entries, base) if own and base else own or base

    @property
    def version(self) -> tuple[int, int, int] | None:
        """Of the file whose entries were last read: its time of modification, size and inode; None without one."""
        with self._lock:
            return self._version

    def _current(self) -> Lexicon | None:
        if self._path is None:
            return None
        with self._lock:
            try:
                found = self._path.stat()
                version = (found.st_mtime_ns, found.st_size, found.st_ino)
                if version != self._version:
                    self._version = version
                    self._lexicon = Lexicon(read_lexicon(self._path))
                    _log.info("LEXICON=%s: %d entries", self._path, len(self._lexicon.entries))
            except (OSError, InvalidRequest) as error:
                if self._version is not None or not isinstance(error, OSError):
                    _log.warning("LEXICON=%s cannot be read, so its last entries stay: %s", self._path, error)
                if isinstance(error, OSError):
                    self._version = None  # report its absence once, and read it when it is back
            return self._lexicon


def read_lexicon(path: Path) -> dict[str, str]:
    """Raises OSError, and InvalidRequest for a line that cannot be used."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return parse_lexicon(lines)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"it is not UTF-8 ({error.reason})") from None
