"""How long a reader may take nothing: a deadline for everything that is sent to it, with one timer and not one each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

_LOOKS = 30  # at the clock, in the time that a reader is given


class WriteTimeout:
    """Most sends wait for nothing, and there are thousands a second: each only notes that it is under way.

    seconds: how long a reader may take nothing while something is being sent to it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sending = 0
        self._since = 0.0  # when the reader last took something, or something was sent to it for the first time

    async def send(self, sending: Awaitable[None]) -> None:
        """Await a send."""
        if not self._sending:
            self._since = time.monotonic()
        self._sending += 1
        try:
            await sending
        finally:
            self._sending -= 1
            self._since = time.monotonic()

    async def end(self) -> None:
        """Wait until the reader has taken nothing for too long."""
        while not self._sending or time.monotonic() - self._since < self._seconds:
            await asyncio.sleep(self._seconds / _LOOKS)
