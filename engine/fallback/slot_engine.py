"""SlotEngine: what the fallback engines share: slots and turns, FIFO admission, cancellation and failure."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from queue import SimpleQueue
from typing import Protocol

from ..config import CPU_SLOTS, EngineConfig
from ..errors import EngineClosed, EngineError, EngineFailed
from ..stream import AudioQueue, SpeechStream, silent_stream
from ..types import SAMPLE_RATE, Codes, EngineStatus, Speech, SpeechRequest, VoicePrompt


class SlotRequest(Protocol):
    """A request in a slot."""

    queue: AudioQueue

    @property
    def silence(self) -> int | None:
        """Samples of silence that the request is, if its text is nothing but pauses."""
        ...

    @property
    def due(self) -> float:
        """When its listener has heard all that was emitted, or began to wait (time.monotonic())."""
        ...

    @property
    def waiting_for_text(self) -> bool:
        """It has nothing to do until more of its text is written; its queue's `on_change` is called then."""
        ...

    def take_turn(self) -> None:
        """Emit ready slices, then synthesize the next piece if one is due. Raises EngineError if the request fails."""
        ...


class SlotEngine(ABC):
    """Serves `config.slots` requests, one piece of audio per turn; further requests queue in FIFO order.

    The next turn is that of the request whose listener runs out of audio first.
    threads: turns that run at once, of different requests. Call `_start_threads` at the end of `__init__`.
    """

    name: str
    sample_rate = SAMPLE_RATE
    max_voice_seconds: float | None = None

    def __init__(self, config: EngineConfig, threads: int = 1) -> None:
        self.slots = config.slots or CPU_SLOTS
        self._queue_slices = config.audio_queue_slices
        self._closing = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # guards everything below and the closing of stream()
        self._waiting: deque[SlotRequest] = deque()
        self._active: list[SlotRequest] = []  # those in no turn
        self._turns: dict[SlotRequest, float] = {}  # those in a turn, since when (time.monotonic())
        # Wakes a thread; every item means "check again". A SimpleQueue because its put() is reentrant: a dropped reader
        # calls it from a finalizer, which may run anywhere in any thread, even one that holds a lock.
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=self.name if number == 0 else f"{self.name}-{number}", daemon=True)
            for number in range(threads)
        ]

    def _start_threads(self) -> None:
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def _request(self, request: SpeechRequest, queue: AudioQueue) -> SlotRequest: ...

    @abstractmethod
    def _detail(self) -> dict[str, object]:
        """EngineStatus.detail."""

    @abstractmethod
    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None: ...

    def encode(self, voice: VoicePrompt) -> Codes | None:
        return None

    def stream(self, request: SpeechRequest) -> SpeechStream:
        queue = AudioQueue(self._queue_slices, on_change=lambda: self._wakeups.put(None))
        slot_request = self._request(request, queue)
        if slot_request.silence is not None:
            return silent_stream(request, slot_request.silence)
        with self._lock:
            if self._failure is not None:
                raise EngineFailed(f"{self.name} has failed: {self._failure}")
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._waiting.append(slot_request)
        self._wakeups.put(None)
        return SpeechStream(queue, request)

    def generate(self, request: SpeechRequest) -> Speech:
        return self.stream(request).collect()

    def status(self) -> EngineStatus:
        started = min(list(self._turns.values()), default=None)
        return EngineStatus(
            engine=self.name,
            device="cpu",
            slots=self.slots,
            active=len(self._active) + len(self._turns),
            queued=len(self._waiting),
            error=None if self._failure is None else str(self._failure),
            stalled_seconds=0.0 if started is None else time.monotonic() - started,
            detail=self._detail(),
        )

    def close(self) -> None:
        with self._lock:
            self._closing = True
        self._wake_all()
        for thread in self._threads:
            thread.join()
        with self._lock:
            unfinished = [*self._active, *self._waiting]
            self._active.clear()
            self._waiting.clear()
        for request in unfinished:
            request.queue.end(EngineClosed("the engine was closed before the speech was complete"))

    def _wake_all(self) -> None:
        for _ in self._threads:
            self._wakeups.put(None)

    # ---- engine threads

    def _run(self) -> None:
        while not self._closing and self._failure is None:
            request = self._begin_turn()
            if request is None:
                self._wakeups.get()
                continue
            try:
                request.take_turn()
            except EngineError as error:
                request.queue.end(error)
            except BaseException as failure:
                self._fail(failure)
            with self._lock:
                del self._turns[request]
                self._active.append(request)
        if self._failure is not None:
            self._end_all(self._failure)

    def _begin_turn(self) -> SlotRequest | None:
        """Free the slots of finished requests, assign them, and choose who is next; None if no one can go on."""
        with self._lock:
            if self._closing:
                return None
            self._active = [request for request in self._active if not request.queue.done]
            self._waiting = deque(request for request in self._waiting if not request.queue.done)
            while self._waiting and len(self._active) + len(self._turns) < self.slots:
                self._active.append(self._waiting.popleft())
            ready = [each for each in self._active if not (each.queue.full or each.waiting_for_text)]
            if not ready:
                return None  # readers and writers are behind
            request = min(ready, key=lambda each: each.due)
            self._active.remove(request)
            self._turns[request] = time.monotonic()
            return request

    def _fail(self, failure: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or failure
        self._wake_all()

    def _end_all(self, failure: BaseException) -> None:
        error = EngineFailed(f"{self.name} has failed: {failure}")
        error.__cause__ = failure
        with self._lock:
            unfinished = [*self._active, *self._turns, *self._waiting]
            self._active.clear()
            self._waiting.clear()
        for request in unfinished:
            request.queue.end(error)
