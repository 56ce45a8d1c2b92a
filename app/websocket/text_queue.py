"""Queue of the texts of one connection, among them one that the client may still be writing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from engine import speakable_end

from ..errors import Busy, Unprocessable
from .messages import SpeakCommand


class PendingText:
    """A text to be spoken: complete, or still being written by the client.

    command: its first message, whose parameters apply to the whole text.
    max_characters: limit of its unspoken characters.
    """

    def __init__(self, command: SpeakCommand, max_characters: int) -> None:
        self.command = command
        self.open = command.continues
        self.piece_at = 0  # where the newest piece begins in the whole text
        self._unspoken = command.text
        self._taken = 0  # characters that are not unspoken any more
        self._max_characters = max_characters
        self._changed = asyncio.Event()
        self._flushed_to = len(self._unspoken) if command.flush else 0  # what is before this waits for no more
        self._chunk_lengths = deque(command.chunk_lengths)

    def append(self, piece: str, continues: bool, flush: bool = False) -> None:
        """Append a piece. continues: more pieces follow. flush: speak all that is unspoken.

        Raises Unprocessable if too many characters are unspoken.
        """
        if len(self._unspoken) + len(piece) > self._max_characters:
            raise Unprocessable(
                f"{len(self._unspoken)} characters of this text are not spoken yet, and {len(piece)} more would exceed "
                f"the limit of {self._max_characters}: send them after some audio has arrived",
                code="text_too_long",
            )
        self._unspoken += piece
        self.open = continues
        if flush:
            self._flushed_to = self._taken + len(self._unspoken)
        self._changed.set()

    def close(self) -> None:
        """No more pieces follow."""
        self.open = False
        self._changed.set()

    def close_at_flush(self) -> bool:
        """No more pieces follow, and what was not flushed is dropped. Returns whether the newest piece was flushed."""
        self._unspoken = self._unspoken[: max(self._flushed_to - self._taken, 0)]
        self.close()
        return self._flushed_to > self.piece_at

    async def pieces(self) -> AsyncIterator[str]:
        """Yield all text that can be spoken now, waiting for more until the text is closed.

        A complete text is one piece, and so is what is flushed. An open one yields complete sentences, once it is as
        long as the command demands; if it grows long without a sentence end, it is cut at a clause or between words.
        """
        while True:
            self._changed.clear()
            taken = self._pop_speakable()
            piece = taken.strip()
            self.piece_at = self._taken + len(taken) - len(taken.lstrip())
            self._taken += len(taken)
            if piece:
                if len(self._chunk_lengths) > 1:
                    self._chunk_lengths.popleft()
                yield piece
            elif self.open:
                await self._changed.wait()
            else:
                return

    def _pop_speakable(self) -> str:
        unspoken = self._unspoken
        if not self.open:
            self._unspoken = ""
            return unspoken
        end = self._flushed_to - self._taken
        if end <= 0 and (not self._chunk_lengths or len(unspoken) >= self._chunk_lengths[0]):
            end = speakable_end(unspoken, self.command.job.request.chunk_characters)
        end = max(end, 0)
        self._unspoken = unspoken[end:]
        return unspoken[:end]


class TextQueue:
    """The texts of a connection in order of arrival. All methods must be called on one event loop.

    max_queued: limit of queued texts, the current one not counted.
    max_characters: limit of unspoken characters per text.
    """

    def __init__(self, max_queued: int, max_characters: int) -> None:
        self.current: PendingText | None = None
        self._max_queued = max_queued
        self._max_characters = max_characters
        self._queued: deque[PendingText] = deque()
        self._newest: PendingText | None = None
        self._finished = False
        self._changed = asyncio.Event()

    @property
    def continuing(self) -> bool:
        """Whether the next message continues the newest text."""
        return self._newest is not None and self._newest.open

    def put(self, command: SpeakCommand) -> None:
        """Queue a text, or append to the open one.

        Raises Busy if too many texts are queued, Unprocessable if a text has too many unspoken characters.
        """
        if self._newest is not None and self._newest.open:
            self._newest.append(command.text, command.continues, command.flush)
            return
        if len(self._queued) >= self._max_queued:
            raise Busy(
                f"{self._max_queued} texts are queued on this connection: send more after one is complete",
                code="too_many_texts",
            )
        self._newest = PendingText(command, self._max_characters)
        self._queued.append(self._newest)
        self._changed.set()

    def finish(self) -> None:
        """No more texts follow. Those in the queue are still spoken."""
        self._finished = True
        if self._newest is not None:
            self._newest.close()
        self._changed.set()

    def clear(self) -> list[PendingText]:
        """Remove and return the queued texts, the current one excluded."""
        removed = list(self._queued)
        self._queued.clear()
        if self._newest in removed:
            self._newest = None
        return removed

    async def __aiter__(self) -> AsyncIterator[PendingText]:
        """Yield each text in turn, waiting for the next one until `finish` is called and the queue is empty."""
        while True:
            self._changed.clear()
            if self._queued:
                self.current = self._queued.popleft()
                yield self.current
                self.current.close()  # cancelled ones too: the next message starts a new text
                self.current = None
            elif self._finished:
                return
            else:
                await self._changed.wait()
