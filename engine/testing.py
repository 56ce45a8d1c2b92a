"""Fake engine for tests: real slots and timing, sine tones as voices, and faults on demand; no model.

Implements `engine.Engine`, so that HTTP and process tests never load torch. A worker uses it with MODEL_PATH=fake or
MODEL_PATH=fake:frame_seconds=0.02,load_seconds=1 (see `FakeOptions`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from .errors import CheckpointError, EngineClosed, EngineFailed, EngineOutOfMemory, InvalidRequest, PromptTooLong
from .fake_options import EXIT_STATUS, FakeOptions, Fault
from .fake_stream import FakeStream
from .interface import Progress
from .stream import AudioQueue, SpeechStream, silent_stream
from .types import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    Codes,
    EngineStatus,
    Speech,
    SpeechRequest,
    SpeechSegment,
    VoicePrompt,
)

FAKE_MODEL = "fake"  # prefix of MODEL_PATH that selects this engine
_DEFAULTS = FakeOptions()


class FakeEngine:
    """Generates tones. Its thread owns all streams; other threads reach it through an inbox that finalizers may use.

    slots: requests that run at once; more wait in order of arrival.
    audio_queue_slices: slices that a stream may be ahead of its reader before it is held.
    fault: of every request whose text triggers none.
    """

    def __init__(
        self,
        slots: int = 4,
        options: FakeOptions = _DEFAULTS,
        *,
        audio_queue_slices: int = 5,
        fault: Fault | None = None,
    ) -> None:
        self.name = options.name
        self.slots = slots
        self.sample_rate = SAMPLE_RATE
        self.max_voice_seconds = options.max_voice_seconds or None
        self.histories: deque[tuple[SpeechSegment, ...]] = deque(maxlen=64)  # of the newest requests, oldest first
        self.prepared: list[tuple[str, int]] = []  # (key, speaker) of prepared voices, in order
        self.encoded: list[str] = []  # keys of those whose codes no store had, in order
        self._options = options
        self._audio_queue_slices = audio_queue_slices
        self._fault = fault
        self._inbox: SimpleQueue[FakeStream | None] = SimpleQueue()  # None: wake up, something changed
        self._waiting: deque[FakeStream] = deque()
        self._running: list[FakeStream] = []
        self._error: str | None = None
        self._busy_since: float | None = None  # None while the thread waits for work
        self._closing = threading.Event()
        self._inbox_lock = threading.Lock()  # no request enters after the inbox was read for the last time
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fake-engine", daemon=True)
        self._thread.start()

    @staticmethod
    def load(model: str, slots: int, audio_queue_slices: int, progress: Progress) -> FakeEngine:
        """The counterpart of `load_engine`. Raises what the options ask for."""
        options = FakeOptions.parse(model)
        steps = 10
        for step in range(steps):
            progress(step / steps, "loading the fake engine")
            time.sleep(options.load_seconds / steps)
        trouble = _read_word(options.trouble)
        if options.load_fails or trouble == "fails":
            raise CheckpointError(f"MODEL_PATH={model}: loading fails, as asked for")
        if trouble == "memory":
            raise EngineOutOfMemory(f"MODEL_PATH={model}: out of memory, as asked for")
        if trouble == "exits":
            os._exit(EXIT_STATUS)
        while trouble == "hangs":
            time.sleep(0.05)
            trouble = _read_word(options.trouble)
        return FakeEngine(slots, options, audio_queue_slices=audio_queue_slices)

    # ---- engine.Engine

    def stream(self, request: SpeechRequest) -> SpeechStream:
        queue = AudioQueue(self._audio_queue_slices, lambda: self._inbox.put(None))
        row = FakeStream(
            request,
            queue,
            Fault.of(request.text) or self._fault,
            self._options.frame_seconds,
            self._options.hides_words,
        )
        if not row.chunk.text:
            return silent_stream(request, row.chunk.pause_before)
        if row.slots > self.slots:
            raise InvalidRequest(f"guidance above 0 takes 2 slots and this engine has {self.slots}: send guidance 0")
        for voice, _ in request.voices:
            self._check_voice(voice)
        with self._inbox_lock:
            if self._error is not None:
                raise EngineFailed(self._error)
            if self._closed:
                raise EngineClosed("the engine is closed")
            queue.prefilled_at = time.monotonic()
            self._inbox.put(row)
            self.histories.append(request.history)
        return SpeechStream(queue, request)

    def generate(self, request: SpeechRequest) -> Speech:
        return self.stream(request).collect()

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        self._check_voice(voice)
        store = voice.codes_store
        if store is None or store.load(voice.key, self.name) is None:
            codes = self.encode(voice)
            self.encoded.append(voice.key)
            if store is not None and codes is not None:
                store.save(voice.key, self.name, codes)
        self.prepared.append((voice.key, speaker))

    def encode(self, voice: VoicePrompt) -> Codes | None:
        """One code for each frame: the mean loudness, in thousandths."""
        samples = voice.samples[: len(voice.samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        return np.asarray(1000 * np.abs(samples).mean(axis=1, keepdims=True), np.int64)

    def status(self) -> EngineStatus:
        waiting = sum(not row.queue.done for row in list(self._waiting))
        return EngineStatus(
            engine=self.name,
            device="cpu",
            slots=self.slots,
            active=sum(row.slots for row in list(self._running) if not row.queue.done),
            queued=waiting + self._inbox.qsize(),
            error=self._error,
            stalled_seconds=0.0 if (since := self._busy_since) is None else time.monotonic() - since,
            detail={"fingerprint": f"fake-{self.name}"},
        )

    def close(self) -> None:
        self._closing.set()
        self._inbox.put(None)
        self._thread.join()

    def _check_voice(self, voice: VoicePrompt) -> None:
        if self.max_voice_seconds is not None and voice.seconds > self.max_voice_seconds:
            raise PromptTooLong(f"the voice has {voice.seconds:.1f} s, at most {self.max_voice_seconds} s fit")

    # ---- the engine thread

    def _run(self) -> None:
        error: EngineClosed | EngineFailed = EngineClosed("the engine was closed")
        next_frame = time.monotonic()
        try:
            while not self._closing.is_set():
                self._read_inbox(next_frame)
                self._release_and_admit()
                now = self._busy_since = time.monotonic()
                if now >= next_frame:
                    due = next_frame + self._options.frame_seconds
                    # after an idle time do not catch up
                    next_frame = due if due >= now else now + self._options.frame_seconds
                    self._step()
        except EngineFailed as broken:
            self._error, error = str(broken), broken
        self._busy_since = None
        with self._inbox_lock:
            self._closed = True
        self._read_inbox(0.0)
        for row in [*self._running, *self._waiting]:
            row.queue.end(error)
        self._running.clear()
        self._waiting.clear()

    def _read_inbox(self, next_frame: float) -> None:
        """Receive requests. Waits until `next_frame`, or without limit if there is no stream or all are held."""
        idle = all((row.queue.full or row.waiting_for_text) and not row.queue.done for row in self._running)
        timeout = None if idle and not self._closed else max(next_frame - time.monotonic(), 0.0)
        self._busy_since = None
        try:
            received = self._inbox.get(block=timeout != 0.0, timeout=timeout)
            while True:
                if received is not None:
                    self._waiting.append(received)
                received = self._inbox.get(block=False)
        except Empty:
            pass

    def _release_and_admit(self) -> None:
        self._running = [row for row in self._running if not row.queue.done]
        self._waiting = deque(row for row in self._waiting if not row.queue.done)
        taken = sum(row.slots for row in self._running)
        while self._waiting and taken + self._waiting[0].slots <= self.slots:
            taken += self._waiting[0].slots
            row = self._waiting.popleft()
            row.not_before = time.monotonic() + self._options.first_frame_seconds
            self._running.append(row)

    def _step(self) -> None:
        options, now = self._options, time.monotonic()
        busy_until = time.thread_time() + options.busy_seconds
        held_at = int(_read_word(options.hold) or sys.maxsize)
        while options.busy_seconds and self._running and time.thread_time() < busy_until:
            pass
        for row in self._running:
            if row.queue.full or row.queue.done or now < row.not_before or row.waiting_for_text:
                continue
            if row.made >= held_at:
                continue
            try:
                ended = row.read_on()
            except InvalidRequest as error:
                row.queue.end(error)
                continue
            if ended:
                row.queue.end()
                continue
            if row.fault is not None and row.made >= row.fault.after_frames:
                self._trigger(row, row.fault)
                continue
            last = row.advance()
            if row.made == options.stall_after and options.stall_seconds:
                row.not_before = now + options.stall_seconds
            if last:
                row.queue.end()

    def _trigger(self, row: FakeStream, fault: Fault) -> None:
        where = f"after {row.made} frames, as scripted"
        if fault.kind == "raise":
            row.queue.end(EngineFailed(f"the engine failed {where}"))
        elif fault.kind == "memory":
            row.queue.end(EngineOutOfMemory(f"out of memory {where}"))
        elif fault.kind == "break":
            raise EngineFailed(f"the engine broke {where}")
        elif fault.kind == "hang":
            self._closing.wait()
        else:
            os._exit(EXIT_STATUS)


def _read_word(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except FileNotFoundError:
        return ""
