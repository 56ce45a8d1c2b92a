"""The texts of one connection that wait to be said, and the one that is being said while it still grows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from engine import sentences_end, split_text

from ..errors import Busy, Unprocessable
from .messages import SpeakCommand


class PendingText:
    """A text on its way to be said: whole, or still being written by whoever sends it.

    longest: the most characters of it that may wait.
    """

    def __init__(self, say: SpeakCommand, longest: int) -> None:
        self.say = say  # its first message, whose parameters hold for all of it
        self.open = say.continues
        self._waiting = say.text
        self._longest = longest
        self._changed = asyncio.Event()

    def add(self, piece: str, more: bool) -> None:
        """Write on. more: that was not the end of it yet. Raises Unprocessable if too much of it waits."""
        if len(self._waiting) + len(piece) > self._longest:
            raise Unprocessable(
                f"{len(self._waiting)} characters of this text wait to be said, and with these {len(piece)} there "
                f"would be more than {self._longest}: send them once some audio has come",
                code="text_too_long",
            )
        self._waiting += piece
        self.open = more
        self._changed.set()

    def close(self) -> None:
        """Nothing follows any more: what waits is all there is."""
        self.open = False
        self._changed.set()

    async def pieces(self) -> AsyncIterator[str]:
        """What can be said by now, each time it is asked for, until the text is at its end.

        A whole text is one piece. One that is being written is said in whole sentences, or when it goes on for
        long without one, in whatever the engine would cut it into.
        """
        while True:
            self._changed.clear()
            piece = self._take().strip()
            if piece:
                yield piece
            elif self.open:
                await self._changed.wait()
            else:
                return

    def _take(self) -> str:
        waiting = self._waiting
        if not self.open:
            self._waiting = ""
            return waiting
        end = sentences_end(waiting)
        limit = self.say.job.speech.chunk_characters
        if not end and len(waiting) > 2 * limit:
            *whole, rest = split_text(waiting, limit)  # white space at its end is gone
            self._waiting = rest + (" " if waiting[-1].isspace() else "")
            return " ".join(whole)
        self._waiting = waiting[end:]
        return waiting[:end]


class TextQueue:
    """The texts of a connection in the order they came. Everything here runs on one event loop.

    most: how many may wait beside the one that is being said. longest: characters of one that may wait.
    """

    def __init__(self, most: int, longest: int) -> None:
        self.current: PendingText | None = None
        self._most = most
        self._longest = longest
        self._waiting: deque[PendingText] = deque()
        self._newest: PendingText | None = None
        self._finished = False
        self._changed = asyncio.Event()

    @property
    def continuing(self) -> bool:
        """The next message goes on with the text of the last one."""
        return self._newest is not None and self._newest.open

    def put(self, say: SpeakCommand) -> None:
        """Take a text, or the next piece of one. Raises Busy if too many wait, Unprocessable for too much of one."""
        if self._newest is not None and self._newest.open:
            self._newest.add(say.text, say.continues)
            return
        if len(self._waiting) >= self._most:
            raise Busy(
                f"{self._most} texts of this connection wait to be said: send more once one is complete",
                code="too_many_texts",
            )
        self._newest = PendingText(say, self._longest)
        self._waiting.append(self._newest)
        self._changed.set()

    def finish(self) -> None:
        """Nothing more comes. What waits will still be said."""
        self._finished = True
        if self._newest is not None:
            self._newest.close()
        self._changed.set()

    def clear(self) -> list[PendingText]:
        """Drop the texts that wait, and give them back. The current one is not among them."""
        dropped = list(self._waiting)
        self._waiting.clear()
        if self._newest in dropped:
            self._newest = None
        return dropped

    async def __aiter__(self) -> AsyncIterator[PendingText]:
        """Each text in turn, waiting for the next, until `finish` and nothing is left."""
        while True:
            self._changed.clear()
            if self._waiting:
                self.current = self._waiting.popleft()
                yield self.current
                self.current.close()  # also one that was cancelled: what comes next is a text of its own
                self.current = None
            elif self._finished:
                return
            else:
                await self._changed.wait()
