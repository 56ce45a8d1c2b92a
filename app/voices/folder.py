"""A folder of recordings: what lies in it now, and changes to it that a crash at any point cannot tear."""

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

_VOICE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_UPLOAD = re.compile(r"\.upload-[0-9a-f]{16}\.tmp")
_SIDECAR = re.compile(r"\.(?P<voice_id>[A-Za-z0-9._-]+)\.(?P<sha256>[0-9a-f]{64})\.json")
_AUDIO_SUFFIXES = frozenset((".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".webm"))
_STALE_SECONDS = 3600  # younger leftovers may be another worker's, still at work


def is_voice_id(name: str) -> bool:
    """1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot; NAME.txt is a transcript's name, never a voice's."""
    return _VOICE_ID.fullmatch(name) is not None and not name.lower().endswith(".txt")


def stem_of(voice_id: str) -> str:
    """The id without what only says its kind: "amy" of "amy.wav", but "v1.2" of "v1.2"."""
    stem, suffix = os.path.splitext(voice_id)
    return stem if suffix.lower() in _AUDIO_SUFFIXES else voice_id


class FileStat(NamedTuple):
    """What a file is now. Two equal looks are the same content, unless it was written to a moment before."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStat:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class VoiceFolder:
    """Names are file names, checked by the caller: no method is given a path.

    preloaded: it is shipped with the service, and only read.
    """

    def __init__(self, path: Path, *, preloaded: bool = False) -> None:
        self.path = path
        self.preloaded = preloaded

    # ---- looking

    def voice_ids(self) -> list[str]:
        """The names of files that could be recordings, sorted."""
        return sorted(name for name in self.list_names() if is_voice_id(name) and self.stat_file(name))

    def list_names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except OSError:  # not there, or not ours to read: nothing to offer
            return []

    def stat_file(self, name: str) -> FileStat | None:
        """What that file is now; None if it is no regular file, or a link to a place outside the folder."""
        path = os.path.join(self.path, name)
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

    def read(self, name: str, most: int) -> tuple[FileStat, bytes] | None:
        """A file and its first `most` bytes, with what it was when it was opened. None as `look`. Raises OSError."""
        if self.stat_file(name) is None:
            return None
        try:
            # Not to wait for the other end, should it have become a pipe.
            file = os.open(os.path.realpath(os.path.join(self.path, name)), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(file, "rb") as source:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                return None
            return FileStat.of(status), source.read(most)

    # ---- changing: by one writer at a time, in all processes

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; the kernel lets go of it when a process dies. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(os.path.join(self.path, ".lock"), flags, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def staged(self, data: bytes) -> Iterator[str]:
        """A hidden file that holds `data`, on the disk and not just on its way there; gone at the end."""
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
        """Let `name` be the staged file, from one moment to the next and for good. Raises OSError."""
        os.rename(staged, os.path.join(self.path, name))
        self.sync()

    def put_new(self, staged: str, name: str) -> None:
        """The same where nothing has that name. Raises FileExistsError, OSError."""
        os.link(staged, os.path.join(self.path, name))  # unlike a rename, this takes the place of nothing
        self.sync()

    def remove(self, name: str) -> None:
        """Raises OSError; a file that is not there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, name))

    def sync(self) -> None:
        """Names are the folder's content: it has to reach the disk as well."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # ---- notes: hidden files that belong to one content of one recording

    @staticmethod
    def sidecar_name(voice_id: str, sha256: str) -> str:
        return f".{voice_id}.{sha256}.json"

    def remove_sidecars(self, voice_id: str, but: str = "") -> None:
        """Remove the notes of every content that this recording had, but one."""
        for name in self.list_names():
            note = _SIDECAR.fullmatch(name)
            if note and note["voice_id"] == voice_id and note["sha256"] != but:
                self.remove(name)

    def remove_stale_files(self) -> list[str]:
        """Remove what writers that died have left behind, and name it. Raises OSError."""
        removed = []
        with self.locked():
            for name in self.list_names():
                note = _SIDECAR.fullmatch(name)
                orphaned = note is not None and self.stat_file(note["voice_id"]) is None
                look = self.stat_file(name) if orphaned or _UPLOAD.fullmatch(name) else None
                if look and look.mtime_ns < time.time_ns() - _STALE_SECONDS * 10**9:
                    self.remove(name)
                    removed.append(name)
        return removed
