"""Fake engine for tests: real slots and timing, sine tones as voices, and faults on demand; no model.

Implements `engine.Engine`, so that HTTP and process tests never load torch. A worker uses it with MODEL_PATH=fake or
MODEL_PATH=fake:frame_seconds=0.02,load_seconds=1 (see `FakeOptions`).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np

from .errors import CheckpointError, EngineClosed, EngineFailed, EngineOutOfMemory, InvalidRequest, PromptTooLong
from .interface import Progress
from .slice_policy import SlicePolicy
from .stream import AudioQueue, SpeechStream, silent_stream
from .text import SpokenChunk, request_chunks
from .timing import TextTiming, Word
from .types import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    AudioChunk,
    Codes,
    EngineStatus,
    Samples,
    Speech,
    SpeechRequest,
    SpeechSegment,
    VoicePrompt,
)

FAKE_MODEL = "fake"  # prefix of MODEL_PATH that selects this engine
EXIT_STATUS = 70  # of a process that ends by the fault "exit"

FaultKind = Literal["raise", "memory", "break", "hang", "exit"]
_MARKER = re.compile(r"\[(raise|memory|break|hang|exit)(?:@(\d+))?\]")


@dataclass(frozen=True)
class Fault:
    """A fault in a request after a number of frames; 0 is before the first.

    raise: the request fails with EngineFailed, the others continue.
    memory: the same with EngineOutOfMemory.
    break: the engine fails for good, as after a CUDA error.
    hang: the engine thread makes no more frames, for any request, until the engine is closed.
    exit: the process ends at once with EXIT_STATUS.

    A text triggers it with `[raise]`, or `[raise@3]` for after 3 frames.
    """

    kind: FaultKind
    after_frames: int = 0

    @staticmethod
    def of(text: str) -> Fault | None:
        found = _MARKER.search(text)
        return Fault(found[1], int(found[2] or 0)) if found else None  # type: ignore[arg-type]  # the pattern allows no other


@dataclass(frozen=True)
class FakeOptions:
    """Behaviour of a FakeEngine; each field can be set in MODEL_PATH, as in `fake:frame_seconds=0.02,name=csm`.

    name: the engine's name.
    frame_seconds: between two frames of 80 ms; 0 is as fast as possible.
    first_frame_seconds: extra time of a request's first frame.
    stall_seconds, stall_after: after so many frames a request pauses for so long, once. These two and
        first_frame_seconds simulate a late engine, with the resolution of frame_seconds, which must be above 0.
    busy_seconds: CPU time of Python in the engine's thread for each step, as a real engine needs to launch its work.
    load_seconds: duration of loading.
    load_fails: loading raises CheckpointError.
    trouble: path of a file with one word, read at each load, that names a fault: fails (CheckpointError), memory
        (EngineOutOfMemory), exits (the process ends with EXIT_STATUS), hangs. Without the file loading succeeds.
    max_voice_seconds: limit on a voice prompt; 0 is none.
    hides_words: the engine does not tell when it says which word, as CSM does not.
    """

    name: str = "fake"
    frame_seconds: float = 0.0
    first_frame_seconds: float = 0.0
    stall_seconds: float = 0.0
    stall_after: int = 5
    busy_seconds: float = 0.0
    load_seconds: float = 0.0
    load_fails: bool = False
    trouble: str = ""
    max_voice_seconds: float = 0.0
    hides_words: bool = False

    @staticmethod
    def parse(model: str) -> FakeOptions:
        """Parse `fake` or `fake:name=value,…`. Raises CheckpointError for an unknown name."""
        options = FakeOptions()
        types = {each.name: type(getattr(options, each.name)) for each in fields(FakeOptions)}
        for pair in filter(None, model.partition(":")[2].split(",")):
            name, _, value = pair.partition("=")
            if name not in types:
                raise CheckpointError(f"MODEL_PATH={model}: {name!r} is not one of {', '.join(types)}")
            parsed: Any = value == "true" if types[name] is bool else types[name](value)
            options = replace(options, **{name: parsed})
        return options


def tone(request: SpeechRequest, first_frame: int, frames: int) -> Samples:
    """The audio of some frames of a request: a continuous sine whose pitch depends on the voice.

    Returns float32 (frames * 1920,).
    """
    key = request.voice.key if request.voice is not None else f"{request.speaker:x}"
    start = first_frame * FRAME_SAMPLES
    positions = np.arange(start, start + frames * FRAME_SAMPLES) % SAMPLE_RATE
    return np.asarray(_sine(150 + int(key[:6], 16) % 500)[positions])


@lru_cache(maxsize=16)
def _sine(hertz: int) -> Samples:
    """One second of a sine, periodic. Cached, so that hundreds of fake streams cost almost nothing."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)


def frame_count(request: SpeechRequest) -> int:
    """Frames of a request: one per character that is spoken, at most `max_frames`."""
    if request.ignore_stop:
        assert request.max_frames is not None
        return request.max_frames
    frames = sum(len(chunk.text) for chunk in request_chunks(request))
    return frames if request.max_frames is None else min(frames, request.max_frames)


def _read_word(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except FileNotFoundError:
        return ""


@dataclass(eq=False)
class _Stream:
    """A request that waits for slots or is running."""

    request: SpeechRequest
    queue: AudioQueue
    fault: Fault | None
    frame_seconds: float
    hides_words: bool
    made: int = 0  # frames, including those of the unfinished slice
    emitted: int = 0  # frames
    not_before: float = 0.0  # earliest time of its next frame
    slice_policy: SlicePolicy = field(init=False)
    chunks: Iterator[SpokenChunk] = field(init=False)
    chunk: SpokenChunk = field(init=False)  # the one that is spoken
    chunk_index: int = 0
    _chunk_end: int = field(init=False)  # frames of the request up to its end
    _pause_before: int = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        self.chunks = request_chunks(request)
        self.chunk = next(self.chunks)
        self._chunk_end, self._pause_before = len(self.chunk.text), self.chunk.pause_before
        # the clock counts the request's own frames, so that slices do not depend on the machine's load
        self.slice_policy = SlicePolicy(
            request.first_slice_frames, request.slice_frames, lambda: self.made * self.frame_seconds
        )

    @property
    def slots(self) -> int:
        return 2 if self.request.guidance > 0 else 1

    def advance(self) -> bool:
        """Make one frame and emit the slice that it fills. Returns whether it is the last."""
        self.made += 1
        request, chunk = self.request, self.chunk
        ends_chunk = self.made == self._chunk_end and not request.ignore_stop
        last = (ends_chunk and chunk.is_last) or self.made == request.max_frames
        if last or ends_chunk or self.made - self.emitted >= self.slice_policy.size:
            self._emit(ends_chunk or last, last)
        if ends_chunk and not last:
            self.chunk = next(self.chunks)
            self.chunk_index += 1
            self._chunk_end += len(self.chunk.text)
        return last

    def _emit(self, ends_chunk: bool, last: bool) -> None:
        samples = tone(self.request, self.emitted, self.made - self.emitted)
        codes = np.full((self.made - self.emitted, 1), self.made, np.int64)
        self.queue.put(
            AudioChunk(
                samples,
                codes,
                text_chunk=self.chunk_index,
                in_last_text_chunk=self.chunk.is_last,
                ends_text_chunk=ends_chunk,
                ends_speech=last,
                pause_before=self._pause_before,
                pause_after=self.chunk.pause_after if ends_chunk else 0,
                timings=self._timings() if ends_chunk and self.request.timestamps else (),
            ),
        )
        self.emitted, self._pause_before = self.made, 0
        self.slice_policy.emitted()

    def _timings(self) -> tuple[TextTiming, ...]:
        """Of the text chunk that ends now; its words have places unless the options hide them."""
        frames = len(self.chunk.text) - (self._chunk_end - self.made)
        words = self.chunk.words if self.hides_words else tuple(_placed_words(self.chunk))
        return (TextTiming(words, 0, frames * FRAME_SAMPLES).clipped(0, frames * FRAME_SAMPLES),)


def _placed_words(chunk: SpokenChunk) -> Iterator[Word]:
    """Each word of a text chunk at its frames, one for each character."""
    at = 0
    for word in chunk.words:
        at = chunk.text.index(word.text, at)
        yield replace(word, begin=at * FRAME_SAMPLES, end=(at + len(word.text)) * FRAME_SAMPLES)
        at += len(word.text)


class FakeEngine:
    """Generates tones. Its thread owns all streams; other threads reach it through an inbox that finalizers may use.

    slots: requests that run at once; more wait in order of arrival.
    audio_queue_slices: slices that a stream may be ahead of its reader before it is held.
    fault: of every request whose text triggers none.
    """

    def __init__(
        self,
        slots: int = 4,
        options: FakeOptions = FakeOptions(),
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
        self._inbox: SimpleQueue[_Stream | None] = SimpleQueue()  # None: wake up, something changed
        self._waiting: deque[_Stream] = deque()
        self._running: list[_Stream] = []
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
        if trouble == "hangs":
            threading.Event().wait()
        return FakeEngine(slots, options, audio_queue_slices=audio_queue_slices)

    # ---- engine.Engine

    def stream(self, request: SpeechRequest) -> SpeechStream:
        queue = AudioQueue(self._audio_queue_slices, lambda: self._inbox.put(None))
        row = _Stream(
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
        if request.voice is not None:
            self._check_voice(request.voice)
        with self._inbox_lock:
            if self._error is not None:
                raise EngineFailed(self._error)
            if self._closed:
                raise EngineClosed("the engine is closed")
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
        idle = all(row.queue.full and not row.queue.done for row in self._running)
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
        while options.busy_seconds and self._running and time.thread_time() < busy_until:
            pass
        for row in self._running:
            if row.queue.full or row.queue.done or now < row.not_before:
                continue
            if row.fault is not None and row.made >= row.fault.after_frames:
                self._trigger(row, row.fault)
                continue
            last = row.advance()
            if row.made == options.stall_after and options.stall_seconds:
                row.not_before = now + options.stall_seconds
            if last:
                row.queue.end()

    def _trigger(self, row: _Stream, fault: Fault) -> None:
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
