"""Audio queue from the engine thread to one reader, and the stream that reads it in a thread or an event loop."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType

import numpy as np

from .crossfade import Crossfader
from .loop_bridge import running_loop_bridge
from .turn_mixer import TurnMixer
from .types import FRAME_SAMPLES, SAMPLE_RATE, AudioChunk, Codes, Speech, SpeechRequest


class AudioQueue:
    """Single-producer, single-consumer queue between the engine thread, which never blocks on it, and one reader.

    capacity: queued chunks from which on `full` asks the engine to hold the slot.
    on_change: wakes the engine; called on the reader's side when the queue stops being full or the reader closes it.
    """

    def __init__(self, capacity: int, on_change: Callable[[], None]) -> None:
        self._capacity = capacity
        self.on_change = on_change
        self._chunks: deque[AudioChunk] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._audio = 0  # samples; changed with the lock held
        self._lock = (
            threading.RLock()
        )  # reentrant: a finalizer may close the queue while the same thread holds the lock
        self.prefilled_at: float | None = None  # time.monotonic(); set before the first chunk, read after it
        self._waiter: Callable[[], bool] | None = None  # wakes the reader; returns False if its event loop is closed

    # ---- the engine's side

    @property
    def full(self) -> bool:
        return len(self._chunks) >= self._capacity

    @property
    def closed(self) -> bool:
        """The reader has left: generate no more audio."""
        return self._closed

    @property
    def done(self) -> bool:
        """No more chunks will be put: the stream ended or failed, or the reader left."""
        return self._ended or self._closed

    @property
    def audio_seconds(self) -> float:
        """Of what was put, what its listener has got, or gets as soon as the reader takes it.

        What the reader joins chunks with counts (pauses, gaps), and neither what joining took away (crossfades, trims,
        turns that overlap) nor what is held back.
        """
        return self._audio / SAMPLE_RATE

    def put(self, chunk: AudioChunk) -> None:
        with self._lock:
            self._audio += _samples_with_pauses(chunk)
            self._chunks.append(chunk)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end. The reader gets the error, if any, after the queued chunks."""
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error
                self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter():  # the reader's event loop is closed: it has left
            self._closed = True

    # ---- the reader's side

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._chunks.clear()
            self._wake()
        self.on_change()

    def _pop(self) -> AudioChunk | None:
        """The next chunk, or None if there is none yet. Call with the lock held. Raises StopIteration at the end."""
        if self._chunks:
            return self._chunks.popleft()
        if self._error is not None:
            raise self._error
        if self._ended or self._closed:
            raise StopIteration
        return None

    def get(self) -> AudioChunk:
        """Wait for the next chunk. Raises StopIteration after the last."""
        while True:
            with self._lock:
                if (chunk := self._pop()) is None:
                    ready = threading.Event()
                    self._waiter = partial(_set, ready)
            if chunk is not None:
                self._notify_if_resumable()
                return chunk
            ready.wait()

    async def get_async(self) -> AudioChunk:
        """Wait for the next chunk in an event loop. Raises StopAsyncIteration after the last."""
        while True:
            with self._lock:
                try:
                    chunk = self._pop()
                except StopIteration:
                    raise StopAsyncIteration from None
                if chunk is None:
                    bridge = running_loop_bridge()
                    future: asyncio.Future[None] = bridge.loop.create_future()
                    self._waiter = partial(bridge.call, partial(_resolve, future))
            if chunk is not None:
                self._notify_if_resumable()
                return chunk
            await future

    def joined(self, chunk: AudioChunk, samples: int) -> None:
        """Joining a chunk that was taken to those before it has given so many samples."""
        if changed := samples - _samples_with_pauses(chunk):
            with self._lock:
                self._audio += changed

    def _notify_if_resumable(self) -> None:
        """A chunk was taken: wake the engine if the queue was full until now."""
        if len(self._chunks) == self._capacity - 1:
            self.on_change()


def _samples_with_pauses(chunk: AudioChunk) -> int:
    return chunk.pause_before + chunk.samples.size + chunk.pause_after


def _set(ready: threading.Event) -> bool:
    ready.set()
    return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class SpeechStream:
    """The audio of one request as it is generated: iterate it with `for` or `async for`, from one reader.

    To cancel, call `close()`, leave `with` or `async with`, or drop the object: the slot is free before the next frame.
    Iterating raises EngineFailed or EngineClosed if the engine stops before the end.
    """

    def __init__(self, queue: AudioQueue, request: SpeechRequest) -> None:
        self._queue = queue
        self._crossfader = Crossfader(request)
        self._mixer = TurnMixer(request.turns) if request.turns else None
        self._samples_left = None if request.max_frames is None else request.max_frames * FRAME_SAMPLES
        self._finalizer = weakref.finalize(self, queue.close)

    @property
    def prefilled_at(self) -> float | None:
        """When the prefill of the first text chunk was launched, by `time.monotonic()`; known from the first audio on.

        None for an engine that has no prefill.
        """
        return self._queue.prefilled_at

    def close(self) -> None:
        self._finalizer()

    def __iter__(self) -> SpeechStream:
        return self

    def __next__(self) -> AudioChunk:
        while (chunk := self._joined(self._queue.get())) is None:
            pass
        return self._limited(chunk)

    def __aiter__(self) -> SpeechStream:
        return self

    async def __anext__(self) -> AudioChunk:
        while (chunk := self._joined(await self._queue.get_async())) is None:
            pass
        return self._limited(chunk)

    def _joined(self, chunk: AudioChunk) -> AudioChunk | None:
        """What can be emitted of the audio, joined with what came before it; None if there is nothing yet."""
        joined = self._crossfader.push(chunk)
        if joined is not None and self._mixer is not None:
            joined = self._mixer.push(joined)
        self._queue.joined(chunk, 0 if joined is None else joined.samples.size)
        return joined

    def _limited(self, chunk: AudioChunk) -> AudioChunk:
        """The chunk, cut at the request's limit: engines count the frames that they make, but no pauses."""
        if self._samples_left is None:
            return chunk
        self._samples_left -= chunk.samples.size
        if self._samples_left > 0 or (chunk.ends_speech and self._samples_left == 0):
            return chunk
        if not chunk.ends_speech:
            self.close()
        samples = chunk.samples[: chunk.samples.size + self._samples_left]
        timings = tuple(each.clipped(each.begin, samples.size) for each in chunk.timings if each.begin < samples.size)
        return replace(chunk, samples=samples, ends_speech=True, timings=timings)

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
        """Wait for all chunks and join them."""
        with self:
            chunks = list(self)  # never empty: the last chunk has ends_speech
        return Speech(
            samples=np.concatenate([chunk.samples for chunk in chunks]),
            codes=np.concatenate([chunk.codes for chunk in chunks]),
        )


def silent_stream(request: SpeechRequest, samples: int) -> SpeechStream:
    """The stream of a text that is nothing but pauses."""
    queue = AudioQueue(1, lambda: None)
    nothing: Codes = np.zeros((0, 0), np.int64)
    silence = AudioChunk(
        np.zeros(0, np.float32),
        nothing,
        in_last_text_chunk=True,
        ends_text_chunk=True,
        ends_speech=True,
        pause_before=samples,
    )
    queue.put(silence)
    queue.end()
    return SpeechStream(queue, request)
