"""The way audio takes from an engine's thread to whoever listens, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType

import numpy as np

from .crossfade import Crossfader
from .loop_bridge import running_loop_bridge
from .types import AudioChunk, Speech, SpeechRequest


class AudioQueue:
    """A mailbox between the engine's thread, which puts and never waits, and one reader.

    capacity: how many chunks may wait before `full` asks the engine to hold the slot.
    on_change: called, from the reader's side, when room appears or the reader leaves.
    """

    def __init__(self, capacity: int, on_change: Callable[[], None]) -> None:
        self._capacity = capacity
        self._on_change = on_change
        self._chunks: deque[AudioChunk] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._lock = threading.RLock()  # of one thread again: a finalizer may close it while it is at work here
        self._waiter: Callable[[], bool] | None = None  # wakes the reader; False: there is nobody to wake any more

    # ---- the engine's side

    @property
    def full(self) -> bool:
        return len(self._chunks) >= self._capacity

    @property
    def closed(self) -> bool:
        """The reader has left: speak no further."""
        return self._closed

    @property
    def done(self) -> bool:
        """Nothing more will be put: it ended, failed, or the reader left."""
        return self._ended or self._closed

    def put(self, chunk: AudioChunk) -> None:
        with self._lock:
            self._chunks.append(chunk)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """No more chunks. With an error the reader gets it behind those that were put."""
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error
                self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter():  # the reader's loop is gone, and with it the reader
            self._closed = True

    # ---- the reader's side

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._chunks.clear()
            self._wake()
        self._on_change()

    def _take(self) -> AudioChunk | None:
        """The next chunk, or None if one has to be waited for. Call with the lock held."""
        if self._chunks:
            return self._chunks.popleft()
        if self._error is not None:
            raise self._error
        if self._ended or self._closed:
            raise StopIteration
        return None

    def get(self) -> AudioChunk:
        """Wait for the next chunk. Raises StopIteration behind the last."""
        while True:
            with self._lock:
                if (chunk := self._take()) is None:
                    gate = threading.Event()
                    self._waiter = partial(_open, gate)
            if chunk is not None:
                self._make_room()
                return chunk
            gate.wait()

    async def get_async(self) -> AudioChunk:
        """Wait for the next chunk in an event loop. Raises StopAsyncIteration behind the last."""
        while True:
            with self._lock:
                try:
                    chunk = self._take()
                except StopIteration:
                    raise StopAsyncIteration from None
                if chunk is None:
                    bridge = running_loop_bridge()
                    future: asyncio.Future[None] = bridge.loop.create_future()
                    self._waiter = partial(bridge.call, partial(_resolve, future))
            if chunk is not None:
                self._make_room()
                return chunk
            await future

    def _make_room(self) -> None:
        """A chunk was taken: tell the engine, if that was what it waited for."""
        if len(self._chunks) == self._capacity - 1:
            self._on_change()


def _open(gate: threading.Event) -> bool:
    gate.set()
    return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class SpeechStream:
    """An answer while it is being spoken: iterate it with `for` or `async for`, from one reader.

    Leaving early: `close()`, `with`, `async with`, or just dropping it; each frees the slot before the
    next frame. Iterating raises EngineFailed or EngineClosed if the engine does not get to the end.
    """

    def __init__(self, queue: AudioQueue, request: SpeechRequest) -> None:
        self._queue = queue
        self._crossfader = Crossfader(request)
        self._finalizer = weakref.finalize(self, queue.close)

    def close(self) -> None:
        self._finalizer()

    def __iter__(self) -> SpeechStream:
        return self

    def __next__(self) -> AudioChunk:
        while (chunk := self._crossfader.push(self._queue.get())) is None:
            pass
        return chunk

    def __aiter__(self) -> SpeechStream:
        return self

    async def __anext__(self) -> AudioChunk:
        while (chunk := self._crossfader.push(await self._queue.get_async())) is None:
            pass
        return chunk

    def __enter__(self) -> SpeechStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> SpeechStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def collect(self) -> Speech:
        """Wait for the whole of it."""
        with self:
            chunks = list(self)  # never none: the last says that it is
        return Speech(
            samples=np.concatenate([chunk.samples for chunk in chunks]),
            codes=np.concatenate([chunk.codes for chunk in chunks]),
        )
