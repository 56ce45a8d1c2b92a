"""Write timeout: detects a client that has not read for too long, with one timer instead of one per send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

_CHECKS = 30  # of the clock, during one timeout


class WriteTimeout:
    """Most sends complete at once, and there are thousands a second: each only records when it starts and ends.

    seconds: how long the client may read nothing while a send is pending.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pending = 0
        self._last_progress = 0.0  # when a send last completed, or the first pending one started

    async def send(self, sending: Awaitable[None]) -> None:
        """Await a send."""
        if not self._pending:
            self._last_progress = time.monotonic()
        self._pending += 1
        try:
            await sending
        finally:
            self._pending -= 1
            self._last_progress = time.monotonic()

    async def wait(self) -> None:
        """Wait until the timeout has expired."""
        while not self._pending or time.monotonic() - self._last_progress < self._seconds:
            await asyncio.sleep(self._seconds / _CHECKS)
