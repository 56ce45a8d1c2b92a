"""A lock between all threads of all forked processes."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Create it before the fork. It is a kernel lock on a file, so the kernel frees it when its holder dies."""

    def __init__(self, name: str) -> None:
        self._file, path = tempfile.mkstemp(prefix=f"csm-serve-{name}-")
        os.unlink(path)  # only a lock: processes use the open descriptor
        self._closing = weakref.finalize(self, os.close, self._file)
        self._closing.atexit = False  # a thread may still hold it, and the kernel closes the file anyhow
        self._threads = threading.Lock()  # the kernel's lock belongs to the process and does not exclude threads

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
