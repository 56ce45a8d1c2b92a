"""EspeakEngine: implements engine.Engine with espeak-ng. Needs no weights and runs on any machine."""

from __future__ import annotations

import threading
import time
from collections import deque
from queue import SimpleQueue

from ..config import CPU_SLOTS, EngineConfig
from ..errors import EngineClosed, EngineFailed
from ..interface import Progress
from ..stream import AudioQueue, SpeechStream, silent_stream
from ..types import SAMPLE_RATE, Codes, EngineStatus, Speech, SpeechRequest, VoicePrompt
from .espeak_library import EspeakLibrary
from .request_state import FallbackRequest
from .voices import VoiceSelector


class EspeakEngine:
    """Serves `config.slots` requests round-robin, one text chunk per turn; further requests queue in FIFO order.

    A slot is at most one text chunk and a full audio queue ahead of its reader. Sampling parameters (temperature,
    top_k, guidance, seed) have no effect; equal requests give equal audio.
    """

    name = "espeak-ng"
    sample_rate = SAMPLE_RATE
    max_voice_seconds: float | None = None

    def __init__(self, config: EngineConfig, report: Progress) -> None:
        """Raises CheckpointError if espeak-ng does not load."""
        report(0.0, "loading espeak-ng")
        self.slots = config.slots or CPU_SLOTS
        self._queue_slices = config.audio_queue_slices
        self._library = EspeakLibrary()
        self._voices = VoiceSelector()
        self._closing = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # guards _waiting and the closing of stream()
        self._waiting: deque[FallbackRequest] = deque()  # guarded by _lock
        self._active: list[FallbackRequest] = []  # used by the engine thread
        self._turn_started: float | None = None  # time.monotonic(); None between turns
        # Wakes the engine thread; every item means "check again". A SimpleQueue because its put() is reentrant: a
        # dropped reader calls it from a finalizer, which may run anywhere in any thread, even one that holds a lock.
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="espeak-ng", daemon=True)
        self._thread.start()
        report(1.0, "espeak-ng is ready")

    def stream(self, request: SpeechRequest) -> SpeechStream:
        queue = AudioQueue(self._queue_slices, on_change=lambda: self._wakeups.put(None))
        state = FallbackRequest(request, queue)
        if state.silence is not None:
            return silent_stream(request, state.silence)
        with self._lock:
            if self._failure is not None:
                raise EngineFailed(f"espeak-ng has failed: {self._failure}")
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._waiting.append(state)
        self._wakeups.put(None)
        return SpeechStream(queue, request)

    def generate(self, request: SpeechRequest) -> Speech:
        return self.stream(request).collect()

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        self._voices.for_recording(voice)

    def encode(self, voice: VoicePrompt) -> Codes | None:
        return None

    def status(self) -> EngineStatus:
        started = self._turn_started
        return EngineStatus(
            engine=self.name,
            device="cpu",
            slots=self.slots,
            active=len(self._active),
            queued=len(self._waiting),
            error=None if self._failure is None else str(self._failure),
            stalled_seconds=0.0 if started is None else time.monotonic() - started,
            detail={"model": f"espeak-ng {self._library.version}"},
        )

    def close(self) -> None:
        with self._lock:
            self._closing = True
        self._wakeups.put(None)
        self._thread.join()

    # ---- engine thread

    def _run(self) -> None:
        error: BaseException = EngineClosed("the engine was closed before the speech was complete")
        try:
            while not self._closing:
                self._admit()
                progressed = [self._take_turn(request) for request in self._active]
                if not any(progressed):
                    self._wakeups.get()
        except BaseException as failure:
            error = EngineFailed(f"espeak-ng has failed: {failure}")
            error.__cause__ = failure
            with self._lock:
                self._failure = failure
        with self._lock:
            unfinished = [*self._active, *self._waiting]
            self._active = []
            self._waiting.clear()
        for request in unfinished:
            request.queue.end(error)

    def _admit(self) -> None:
        """Free the slots of finished requests and assign them to waiting ones."""
        self._active = [request for request in self._active if not request.queue.done]
        with self._lock:
            self._waiting = deque(request for request in self._waiting if not request.queue.done)
            while self._waiting and len(self._active) < self.slots:
                self._active.append(self._waiting.popleft())

    def _take_turn(self, request: FallbackRequest) -> bool:
        """Emit ready slices, then synthesize a text chunk if one is due. False if the reader has to catch up first."""
        if self._closing or request.queue.done or request.queue.full:
            return False
        self._turn_started = time.monotonic()
        try:
            request.emit_slices()
            if request.needs_chunk:
                voice = self._voices.for_request(request.request)
                request.synthesize_chunk(self._library, voice, stopped=lambda: self._closing)
        except EngineFailed as error:
            request.queue.end(error)
        finally:
            self._turn_started = None
        return True
