"""Looks at something that others change: each caller sees what was there after it asked, and those that wait share."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_T = TypeVar("_T")
_MAX_KEPT = 10_000


class _Key(Generic[_T]):
    """running: held by the look in progress. next: the look that those who ask meanwhile wait for."""

    def __init__(self) -> None:
        self.running = threading.Lock()
        self.next: Future[_T] | None = None


class SharedLook(Generic[_T]):
    """Calls `look` for a key, once for all callers that wait for the same key. Thread-safe.

    A look that began before a caller asked may have missed the newest change. So nobody joins one in progress: all who
    ask meanwhile share the next.
    keep_seconds: how long an outcome is given to later callers, counted from the start of its look; 0: not at all.
    """

    def __init__(self, look: Callable[[str], _T], keep_seconds: float = 0.0) -> None:
        self._look = look
        self._keep_seconds = keep_seconds
        self._keys: weakref.WeakValueDictionary[str, _Key[_T]] = weakref.WeakValueDictionary()
        self._kept: OrderedDict[str, tuple[float, Future[_T]]] = OrderedDict()
        self._lock = threading.Lock()  # guards the two above and `next` of each key

    def __call__(self, key: str) -> _T:
        """What `look` returns or raises for a key."""
        with self._lock:
            if (kept := self._kept.get(key)) is not None and time.monotonic() < kept[0] + self._keep_seconds:
                return kept[1].result()
            entry = self._keys.setdefault(key, _Key())
            outcome = entry.next
            mine = outcome is None
            if outcome is None:
                outcome = entry.next = Future()
        if mine:
            with entry.running:
                with self._lock:
                    entry.next = None  # from here on, who asks waits for another look
                self._run(key, outcome)
        return outcome.result()

    def forget(self, key: str) -> None:
        """Do not give the kept outcome of a key to anyone: it has been changed here."""
        with self._lock:
            self._kept.pop(key, None)

    def _run(self, key: str, outcome: Future[_T]) -> None:
        began = time.monotonic()
        try:
            outcome.set_result(self._look(key))
        except BaseException as error:
            outcome.set_exception(error)
        if self._keep_seconds > 0:
            with self._lock:
                self._kept[key] = (began, outcome)
                self._kept.move_to_end(key)
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
