"""The text chunks of one request, each planned while the one before it is spoken. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress

from .context import TextChunk
from .text_feed import TextFeed


class ChunkPlan:
    """The current text chunk, and the next once it is planned.

    chunks: makes a chunk when it is asked for one; the first is made here, on the caller's thread. Raises its errors.
    more: what is still being written of the text; None for a complete text.
    """

    def __init__(self, chunks: Iterator[TextChunk], more: TextFeed | None = None) -> None:
        self.current = next(chunks)
        self.index = 0  # of the current chunk
        self._chunks, self._more = chunks, more
        self._next: Future[TextChunk] | None = None

    def plan_next(self, planner: Executor, on_planned: Callable[[], None]) -> None:
        """Have the next chunk planned on another thread, if there is one and as soon as it is written.

        on_planned: called on the planner's thread, or on that which submits the work if it is done at once.
        """
        if self.current.is_last:
            return

        def submit() -> None:
            with suppress(RuntimeError):  # the planner is shut down: the engine has ended the request
                planned = self._next = planner.submit(next, self._chunks)
                planned.add_done_callback(lambda _: on_planned())  # self._next may have been taken meanwhile

        if self._more is not None and self.current.ends_part:
            self._more.when_ready(self.current.part, submit)
        else:
            submit()

    @property
    def next_planned(self) -> bool:
        return self._next is not None and self._next.done()

    def advance(self) -> None:
        """Go to the next chunk, which is planned. Raises what its planning raised."""
        assert self._next is not None, "there is no next chunk"
        self.current, self._next = self._next.result(), None
        self.index += 1
