"""Directory of recordings: listing, reading, and crash-safe atomic writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .voice_id import canonical_id, is_voice_id

_UPLOAD = re.compile(r"\.upload-[0-9a-f]{16}\.tmp")
_SIDECAR = re.compile(r"\.(?P<voice_id>.+)\.(?P<sha256>[0-9a-f]{64})\.json", re.DOTALL)
_STALE_SECONDS = 3600  # a younger temporary file may belong to an upload in progress in another worker


class FileStat(NamedTuple):
    """Identity of a file's content. Equal values mean equal content, unless the file was just being written."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStat:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class VoiceFolder:
    """Reads and atomically changes the files of one directory. Methods take file names, validated by the caller.

    Names are in composed form (NFC); a file that was copied in under the decomposed form of a name is found by it too.
    preloaded: the directory is shipped with the service and read-only.
    """

    def __init__(self, path: Path, *, preloaded: bool = False) -> None:
        self.path = path
        self.preloaded = preloaded

    # ---- reading

    def voice_ids(self) -> list[str]:
        """Names of the files that may be recordings, sorted."""
        names = {canonical_id(name) for name in self.list_names()}
        return sorted(name for name in names if is_voice_id(name) and self.stat_file(name))

    def list_names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except OSError:  # missing or unreadable
            return []

    def _path(self, name: str) -> str:
        """Path of the file with a name, or of the one whose name differs from it only in being decomposed."""
        path = os.path.join(self.path, name)
        if not name.isascii() and not os.path.lexists(path):
            name = next((each for each in self.list_names() if canonical_id(each) == name), name)
        return os.path.join(self.path, name)

    def stat_file(self, name: str) -> FileStat | None:
        """Stat a file; None if it is not a regular file, or a link to a target outside the directory."""
        path = self._path(name)
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                if not self._is_inside(path):
                    return None
                status = os.stat(path)
        except OSError:
            return None
        return FileStat.of(status) if stat.S_ISREG(status.st_mode) else None

    def _is_inside(self, path: str) -> bool:
        folder = os.path.realpath(self.path)
        return os.path.commonpath((folder, os.path.realpath(path))) == folder

    def read(self, name: str, max_bytes: int) -> tuple[FileStat, bytes] | None:
        """Read the first `max_bytes` of a file, with its stat when it was opened.

        Returns None where `stat_file` does. Raises OSError.
        """
        if self.stat_file(name) is None:
            return None
        try:
            # O_NONBLOCK: do not wait for a writer if the file has been replaced by a pipe.
            file = os.open(os.path.realpath(self._path(name)), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(file, "rb") as source:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                return None
            return FileStat.of(status), source.read(max_bytes)

    # ---- writing: one writer at a time across all processes

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory's file lock; the kernel releases it when a process dies. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(os.path.join(self.path, ".lock"), flags, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def staged(self, data: bytes) -> Iterator[str]:
        """A hidden temporary file with `data`, synced to disk; removed at the end."""
        upload = os.path.join(self.path, f".upload-{secrets.token_hex(8)}.tmp")
        try:
            with open(upload, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield upload
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(upload)

    def put(self, staged: str, name: str) -> None:
        """Atomically and durably rename the staged file to `name`, replacing any previous one. Raises OSError."""
        os.rename(staged, self._path(name))
        self.sync()

    def put_new(self, staged: str, name: str) -> None:
        """The same for a name that does not exist yet. Raises FileExistsError, OSError."""
        os.link(staged, os.path.join(self.path, name))  # unlike a rename, a link never replaces a file
        self.sync()

    def remove(self, name: str) -> None:
        """Remove a file if it exists. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def sync(self) -> None:
        """Sync the directory, so that renames and links reach the disk. Raises OSError."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # ---- sidecars: hidden files that belong to one content of one recording

    @staticmethod
    def sidecar_name(voice_id: str, sha256: str) -> str:
        return f".{voice_id}.{sha256}.json"

    def remove_sidecars(self, voice_id: str, keep: str = "") -> None:
        """Remove the sidecars of all contents of this recording, except that of the hash `keep`."""
        for name in self.list_names():
            sidecar = _SIDECAR.fullmatch(name)
            if sidecar and canonical_id(sidecar["voice_id"]) == voice_id and sidecar["sha256"] != keep:
                self.remove(name)

    def remove_stale_files(self) -> list[str]:
        """Remove files left behind by writers that died. Returns their names. Raises OSError."""
        removed = []
        with self.locked():
            for name in self.list_names():
                sidecar = _SIDECAR.fullmatch(name)
                orphaned = sidecar is not None and self.stat_file(sidecar["voice_id"]) is None
                found = self.stat_file(name) if orphaned or _UPLOAD.fullmatch(name) else None
                if found and found.mtime_ns < time.time_ns() - _STALE_SECONDS * 10**9:
                    self.remove(name)
                    removed.append(name)
        return removed
