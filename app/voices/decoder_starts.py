"""How starts of the decoder process went: they are reported, and a hung one is not repeated at once."""

from __future__ import annotations

import time

from ..observability.components import Report, report_nothing

_SLOW_START_SECONDS = 2.0  # a start that fails after longer than this is not retried immediately


class DecoderStartError(Exception):
    """The reason why a decoder does not start; the cause of ComponentFailed."""


class DecoderStartPolicy:
    """Reports decoder starts and backs off after a hung one. Shared by all decoders of a worker. Thread-safe.

    A start that hung is not retried for as long as it took; meanwhile callers fail immediately.
    report: called after every start with its error, or None.
    """

    def __init__(self, report: Report = report_nothing) -> None:
        self._report = report
        self._retry_at = 0.0

    @property
    def may_start(self) -> bool:
        return time.monotonic() >= self._retry_at

    def record(self, error: str | None, detail: str, seconds: float) -> None:
        """Record a start that took `seconds`. error: None if it succeeded."""
        hung = error is not None and seconds > _SLOW_START_SECONDS
        self._retry_at = time.monotonic() + seconds if hung else 0.0
        self._report(error, detail)
