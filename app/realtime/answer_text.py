"""The words of one answer: the language model's clauses as the parts of one text, which one slot speaks."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from engine import InvalidMarkup, TextFeed, has_words, normalize, spoken_text

from ..audio.thread_pool import run_in_thread
from ..errors import Unavailable
from .clauses import ClauseSplitter
from .conversation import SpokenClause


class AnswerText:
    """Written by one task, and passed on to the engine by another: `begin` gives the first clause, `feed` all others.

    characters: limit of a clause. normalizes: whether the engine normalises it.
    seconds: how long a slot that has spoken everything may wait for a clause.
    clauses: those that were passed on; their indices are the engine's parts. more: all but the first, for the engine.
    """

    def __init__(self, characters: int, seconds: float, *, normalizes: bool) -> None:
        self.clauses: list[SpokenClause] = []
        self.more = TextFeed()
        self._splitter = ClauseSplitter(characters)
        self._seconds, self._normalizes = seconds, normalizes
        self._written: asyncio.Queue[str | None] = asyncio.Queue()
        self._passed_on: list[float] = []  # when each clause was, by the monotonic clock
        self._spoken = -1  # index of the newest clause that was spoken completely
        self._waiting: asyncio.Timeout | None = None  # for a clause

    # ---- the writer

    def write(self, text: str) -> bool:
        """Add words. Returns whether a clause is complete with them."""
        return self._put(self._splitter.push(text))

    def flush(self) -> bool:
        """The words so far are complete. Returns whether there was an unfinished clause."""
        return self._put([self._splitter.flush()])

    def end(self) -> None:
        self._written.put_nowait(None)

    def _put(self, clauses: list[str]) -> bool:
        with_words = list(filter(has_words, clauses))
        for clause in with_words:
            self._written.put_nowait(clause)
        return bool(with_words)

    # ---- the speaker

    async def begin(self) -> str | None:
        """Wait for the first clause; None if there is nothing to say."""
        return await self._next()

    async def feed(self) -> None:
        """Pass on the other clauses as they are written, up to the end.

        Raises Unavailable if the slot has waited too long for one. The text ends in any case.
        """
        try:
            while True:
                async with asyncio.timeout(None) as self._waiting:
                    self._limit_wait()
                    clause = await self._next()
                if clause is None:
                    return
                self.more.append(clause)
        except TimeoutError:
            raise Unavailable(
                f"the language model at LLM_BASE_URL wrote no clause for {self._seconds:g} seconds, in which a slot "
                "waited for it: try again, or raise LLM_TIMEOUT_SECONDS",
                code="llm_timeout",
            ) from None
        finally:
            self._waiting = None
            self.more.end()

    def spoken(self, part: int) -> None:
        """Record that a clause was spoken completely: if it is the newest, the slot waits from now on."""
        self._spoken = part
        self._limit_wait()

    def passed_on(self, part: int) -> float:
        """When a clause was passed on, by the monotonic clock."""
        return self._passed_on[part]

    def _limit_wait(self) -> None:
        if self._waiting is not None and self._spoken == len(self.clauses) - 1:
            self._waiting.reschedule(asyncio.get_running_loop().time() + self._seconds)

    async def _next(self) -> str | None:
        """The next clause that says something, as the engine is to read it."""
        while (clause := await self._written.get()) is not None:
            to_read, spoken = await run_in_thread(partial(_readable, clause, normalizes=self._normalizes))
            if spoken:
                self.clauses.append(SpokenClause(clause, spoken))
                self._passed_on.append(time.monotonic())
                return to_read
        return None


def _readable(text: str, *, normalizes: bool) -> tuple[str, str]:
    """A text for the engine, and what it says. What only looks like markup, in a model's words, is read as words."""
    try:
        return text.strip(), spoken_text(text, normalizes=normalizes)
    except InvalidMarkup:
        words = normalize(text)
        return words, words
