"""The rest of a text that is still being written while it is spoken. Pure, no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .errors import InvalidRequest


class TextFeed:
    """Parts of a text in order, appended by its writer and read by an engine. Thread-safe.

    Parts are kept, so that another engine can read them again from the first on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._parts: list[str] = []
        self._ended = False
        self._waiting: list[tuple[int, Callable[[], object]]] = []  # what is called once a part is ready

    def append(self, part: str) -> None:
        """Add a part; each is read as a text of its own. Raises InvalidRequest if it is blank or the text has ended."""
        if not part.strip():
            raise InvalidRequest("a part of the text is empty: append at least one character to speak")
        with self._lock:
            if self._ended:
                raise InvalidRequest("the text has ended: a part cannot be appended any more")
            self._parts.append(part)
        self._call_waiting()

    def end(self) -> None:
        """No more parts follow. Idempotent."""
        with self._lock:
            self._ended = True
        self._call_waiting()

    @property
    def ended(self) -> bool:
        with self._lock:
            return self._ended

    def ready(self, index: int) -> bool:
        """Whether the part with this index, from 0, is there, or the text has ended before it."""
        with self._lock:
            return self._is_ready(index)

    def get(self, index: int) -> str | None:
        """A part that is ready; None if the text has ended before it."""
        with self._lock:
            assert self._is_ready(index), f"part {index} is not written yet"
            return self._parts[index] if index < len(self._parts) else None

    def when_ready(self, index: int, callback: Callable[[], object]) -> None:
        """Call back once, when the part is ready: now, or on the thread that appends it or ends the text."""
        with self._lock:
            if not self._is_ready(index):
                self._waiting.append((index, callback))
                return
        callback()

    def _is_ready(self, index: int) -> bool:
        return self._ended or index < len(self._parts)

    def _call_waiting(self) -> None:
        with self._lock:
            due = [callback for index, callback in self._waiting if self._is_ready(index)]
            self._waiting = [each for each in self._waiting if not self._is_ready(each[0])]
        for callback in due:  # outside of the lock: they may ask for the next part
            callback()


class NextPart:
    """Whether a request has to wait for the next part of its text. Belongs to the thread that reads the text.

    wake: called, from any thread, when a part has come that was missing.
    """

    def __init__(self, feed: TextFeed | None, wake: Callable[[], object]) -> None:
        self._feed, self._wake = feed, wake
        self._index: int | None = None

    def follows(self, index: int) -> None:
        """The part with this index is read next, if the text is written while it is spoken."""
        if self._feed is not None:
            self._index = index
            self._feed.when_ready(index, self._wake)

    @property
    def missing(self) -> bool:
        return self._index is not None and self._feed is not None and not self._feed.ready(self._index)
