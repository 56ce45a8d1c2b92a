"""Object storage that may be lost: every call has a deadline, and its health is reported."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from ..errors import Unavailable
from ..observability.components import Report, report_nothing
from .object_storage import ObjectStorage

MARKER = "csm-serve.json"  # tells an empty storage from the empty folder where one should be mounted
_MARKER_CONTENT = json.dumps({"format": 1}).encode()
_THREADS = 16
_OPENING_SECONDS = 10.0  # added until it has answered once: a package is imported, credentials are looked up
_LOST_SECONDS = 0.25  # the deadline of a storage that did not answer the last time: requests do not wait for it again
_CANCEL_SECONDS = 1.0  # from a deadline until the call itself is cancelled
_PROBE_SECONDS = 2.0
_BYTES_PER_SECOND = 1 << 20  # of a slow line, added to the deadline of recordings

_Result = TypeVar("_Result")


class StorageLost(Unavailable):
    """The storage does not answer, or not as it should.

    unlisted: of a voice that was not there either when the storage last answered.
    """

    code = "storage_failed"
    unlisted = False

    def copy(self, *, unlisted: bool = False) -> StorageLost:
        """One to raise where others may raise the same: a raised exception collects tracebacks."""
        error = StorageLost(self.detail, code=self.code)
        error.unlisted = unlisted
        return error


class WatchedStorage:
    """Calls a storage with deadlines. Thread-safe.

    Methods raise StorageLost for whatever fails, beside the FileNotFoundError and FileExistsError of their names.
    timeout: seconds until an answer, of a storage that works.
    max_object_bytes: of the largest object.
    report: called with the result of every call.
    was_used: voices have been found there before, so that an empty storage is a lost one. Whoever finds one says so.
    """

    def __init__(
        self,
        connect: Callable[[], ObjectStorage],
        where: str,
        *,
        timeout: float,
        max_object_bytes: int,
        report: Report = report_nothing,
        was_used: bool = False,
    ) -> None:
        self._connect = connect
        self._where = where
        self._timeout = timeout
        self._transfer_timeout = timeout + max_object_bytes / _BYTES_PER_SECOND
        self._report = report
        self.was_used = was_used
        self._storage: ObjectStorage | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="voice-storage")
        self._lock = threading.Lock()  # guards _storage while it is made, and the two below
        self._lost = False
        self._answered = False
        self._prober: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def lost(self) -> bool:
        """It did not answer the last time."""
        return self._lost

    def read(self, name: str, *, large: bool = False) -> bytes:
        """large: it may be as large as a recording. Raises FileNotFoundError, StorageLost."""
        timeout = self._transfer_timeout if large else self._timeout
        return self._call(lambda storage, limit: storage.read(name, limit), timeout)

    def write(self, name: str, data: bytes) -> None:
        self._call(lambda storage, limit: storage.write(name, data, limit), self._transfer_timeout)

    def create(self, name: str, data: bytes) -> None:
        """Raises FileExistsError, StorageLost."""
        self._call(lambda storage, limit: storage.create(name, data, limit), self._timeout)

    def delete(self, name: str) -> None:
        self._call(lambda storage, limit: storage.delete(name, limit), self._timeout)

    def names(self, folder: str) -> list[str]:
        """The names in a folder, without its own; none if there is no such folder."""
        return self._call(lambda storage, limit: storage.names(folder, limit), self._timeout)

    def age(self, name: str) -> float:
        """Raises FileNotFoundError, StorageLost."""
        return self._call(lambda storage, limit: storage.age(name, limit), self._timeout)

    def mark_used(self) -> None:
        """Write the marker, before the first voice."""
        if not self.was_used:
            try:
                self.create(MARKER, _MARKER_CONTENT)
            except FileExistsError:
                pass
            except FileNotFoundError:
                raise self._failed("the bucket does not exist") from None
            self.was_used = True

    def close(self) -> None:
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            prober = self._prober
        if prober is not None:
            prober.join()

    def check_present(self) -> None:
        """After something was not found: is only that missing, or the storage? Raises StorageLost."""
        try:
            self.read(MARKER)
            self.was_used = True
        except FileNotFoundError:
            if self.was_used:
                raise self._failed(
                    f"{MARKER} is missing: the bucket or folder was emptied, or is not mounted"
                ) from None

    # ---- calls

    def _call(self, call: Callable[[ObjectStorage, float], _Result], timeout: float) -> _Result:
        deadline = min(timeout, _LOST_SECONDS) if self._lost else timeout + _OPENING_SECONDS * (not self._answered)
        try:
            future = self._threads.submit(lambda: call(self._opened(), deadline + _CANCEL_SECONDS))
        except RuntimeError:
            raise StorageLost("this worker is shutting down: try again soon", code="draining") from None
        if not wait([future], deadline).done:
            future.cancel()
            raise self._failed(f"it does not answer within {deadline:g} s")
        error = future.exception()
        if error is None:
            self._works()
            return future.result()
        if isinstance(error, FileNotFoundError | FileExistsError):
            self._works()
            raise error
        raise self._failed(_reason(error)) from error

    def _opened(self) -> ObjectStorage:
        with self._lock:
            if self._storage is None:
                self._storage = self._connect()
            return self._storage

    # ---- health

    def _works(self) -> None:
        self._lost, self._answered = False, True
        self._report(None, "")

    def _failed(self, reason: str) -> StorageLost:
        self._report(f"VOICES_URL {self._where} cannot be used", reason)
        with self._lock:
            self._lost = True
            if self._prober is None and not self._closing.is_set():
                self._prober = threading.Thread(target=self._probe, name="voice-storage-probe", daemon=True)
                self._prober.start()
        return StorageLost(
            f"the storage of voices, VOICES_URL, cannot be used ({reason}): voices that this machine has are spoken, "
            "others when it is back"
        )

    def _probe(self) -> None:
        """Ask a lost storage until it is back, with its full deadline: requests alone might never learn of it."""
        while not self._closing.wait(_PROBE_SECONDS):
            works = self._answers()
            with self._lock:
                self._lost = self._lost and not works
                ends = not self._lost
                if ends:
                    self._prober = None
            if ends:
                self._report(None, "")
                return

    def _answers(self) -> bool:
        limit = self._timeout + _OPENING_SECONDS  # for credentials, which are looked up although nobody waits
        try:
            future = self._threads.submit(lambda: self._opened().read(MARKER, limit))
        except RuntimeError:  # closing
            return False
        if not wait([future], self._timeout).done:
            future.cancel()
            return False
        error = future.exception()
        return error is None or (isinstance(error, FileNotFoundError) and not self.was_used)


def _reason(error: BaseException) -> str:
    """One line without a stack: what the storage's package says."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
