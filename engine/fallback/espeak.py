"""espeak-ng as an engine: real, intelligible speech from the first minute, on any machine and without weights."""

from __future__ import annotations

import threading
import time
from collections import deque
from queue import SimpleQueue

from ..config import CPU_SLOTS, EngineConfig
from ..errors import EngineClosed, EngineFailed
from ..interface import Progress
from ..stream import AudioQueue, SpeechStream
from ..types import SAMPLE_RATE, EngineStatus, Speech, SpeechRequest, VoicePrompt
from .espeak_library import EspeakLibrary
from .request_state import FallbackRequest
from .voices import KnownVoices


class EspeakEngine:
    """Speaks `config.slots` requests at once, a text chunk of each in turn; the rest wait in their order.

    A slot is never more than one text chunk and a full queue ahead of its reader. What only CSM knows
    (temperature, top_k, guidance, seed) changes nothing here: equal requests sound equal anyway.
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
        self._voices = KnownVoices()
        self._closing = False
        self._failure: BaseException | None = None
        self._gate = threading.Lock()  # between stream() and the end: behind it nothing comes in
        self._waiting: deque[FallbackRequest] = deque()  # behind the gate
        self._speaking: list[FallbackRequest] = []  # of the engine's thread
        self._turn_began: float | None = None  # time.monotonic(); None between turns
        # Every item means "look again". A SimpleQueue, since a reader that is dropped puts from its finalizer,
        # which may run at any point of any thread, also where that thread holds a lock.
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="espeak-ng", daemon=True)
        self._thread.start()
        report(1.0, "espeak-ng is ready")

    def stream(self, request: SpeechRequest) -> SpeechStream:
        queue = AudioQueue(self._queue_slices, on_change=lambda: self._wakes.put(None))
        with self._gate:
            if self._failure is not None:
                raise EngineFailed(f"espeak-ng has failed: {self._failure}")
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._waiting.append(FallbackRequest(request, queue))
        self._wakes.put(None)
        return SpeechStream(queue, request)

    def generate(self, request: SpeechRequest) -> Speech:
        return self.stream(request).collect()

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        self._voices.of_recording(voice)

    def status(self) -> EngineStatus:
        began = self._turn_began
        return EngineStatus(
            engine=self.name,
            device="cpu",
            slots=self.slots,
            active=len(self._speaking),
            queued=len(self._waiting),
            error=None if self._failure is None else str(self._failure),
            stalled_seconds=0.0 if began is None else time.monotonic() - began,
            detail={"model": f"espeak-ng {self._library.version}"},
        )

    def close(self) -> None:
        with self._gate:
            self._closing = True
        self._wakes.put(None)
        self._thread.join()

    # ---- the engine's thread

    def _run(self) -> None:
        error: BaseException = EngineClosed("the engine was closed before it had spoken the whole text")
        try:
            while not self._closing:
                self._admit()
                turns = [self._take_turn(utterance) for utterance in self._speaking]
                if not any(turns):
                    self._wakes.get()
        except BaseException as broken:
            error = EngineFailed(f"espeak-ng has failed: {broken}")
            error.__cause__ = broken
            with self._gate:
                self._failure = broken
        with self._gate:
            left = [*self._speaking, *self._waiting]
            self._speaking = []
            self._waiting.clear()
        for utterance in left:
            utterance.queue.end(error)

    def _admit(self) -> None:
        """Free the slots of those that are done, and give them to those that wait."""
        self._speaking = [utterance for utterance in self._speaking if not utterance.queue.done]
        with self._gate:
            self._waiting = deque(utterance for utterance in self._waiting if not utterance.queue.done)
            while self._waiting and len(self._speaking) < self.slots:
                self._speaking.append(self._waiting.popleft())

    def _take_turn(self, utterance: FallbackRequest) -> bool:
        """Give out what is ready, or speak one text chunk; False if its reader has to come first."""
        if self._closing or utterance.queue.done or utterance.queue.full:
            return False
        self._turn_began = time.monotonic()
        try:
            utterance.give_out()
            if utterance.wants_chunk:
                voice = self._voices.of_request(utterance.request)
                utterance.speak_chunk(self._library, voice, stopped=lambda: self._closing)
        except EngineFailed as error:
            utterance.queue.end(error)
        finally:
            self._turn_began = None
        return True
