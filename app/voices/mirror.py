"""Local mirror of shared voices: files of one directory, bounded in bytes, the least recently used ones leave first."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path


class Mirror:
    """Keeps copies of objects by name. Used by all workers of a machine at once; an error of the disk is a miss.

    Names are plain file names that do not start with a dot. Whoever reads a copy checks it: nothing is synced to disk.
    max_bytes: of all copies; a larger one is not kept.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # one thread of a process evicts
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        draft = self._folder / f".{secrets.token_hex(8)}.tmp"
        try:
            draft.write_bytes(data)
            draft.rename(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
        self._evict()

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()

    def names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if not name.startswith("."))
        except OSError:
            return []

    @property
    def nbytes(self) -> int:
        """Of all files, drafts included."""
        return sum(size for _, size, _ in self._files())

    def _files(self) -> list[tuple[int, int, str]]:
        """(time of the last use, bytes, path) of each file."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process has removed it
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        return found

    def _evict(self) -> None:
        with self._lock:
            files = sorted(self._files())
            total = sum(size for _, size, _ in files)
            for _, size, path in files:
                if total <= self._max_bytes:
                    return
                with contextlib.suppress(OSError):
                    os.unlink(path)
                total -= size
