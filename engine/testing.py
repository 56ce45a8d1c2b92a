"""An engine without a model, for tests: real slots, a clock, tones for voices, and faults on demand.

It keeps every promise of `engine.Engine`, so that HTTP and process tests never load torch. A worker runs on
it with MODEL_PATH=fake or MODEL_PATH=fake:frame_seconds=0.02,load_seconds=1 (see `FakeOptions`).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np

from .errors import CheckpointError, EngineClosed, EngineFailed, EngineOutOfMemory, InvalidRequest, PromptTooLong
from .interface import Progress
from .slice_policy import SlicePolicy
from .stream import AudioQueue, SpeechStream
from .types import FRAME_SAMPLES, SAMPLE_RATE, AudioChunk, EngineStatus, Samples, Speech, SpeechRequest, VoicePrompt

FAKE_MODEL = "fake"  # as the start of MODEL_PATH: this engine
EXIT_STATUS = 70  # of a process that the fault "exit" ended

FaultKind = Literal["raise", "memory", "break", "hang", "exit"]
_MARKER = re.compile(r"\[(raise|memory|break|hang|exit)(?:@(\d+))?\]")


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a request, and how many frames it has spoken by then; 0 is before the first.

    raise: this request fails with EngineFailed, the others speak on.
    memory: the same with EngineOutOfMemory.
    break: the engine fails for good, as after a CUDA error.
    hang: the engine's thread makes no more frames, for anybody, until it is closed.
    exit: the process ends at once with EXIT_STATUS.

    In a text it is written `[raise]`, or `[raise@3]` for after 3 frames.
    """

    kind: FaultKind
    after_frames: int = 0

    @staticmethod
    def of(text: str) -> Fault | None:
        found = _MARKER.search(text)
        return Fault(found[1], int(found[2] or 0)) if found else None  # type: ignore[arg-type]  # by the pattern


@dataclass(frozen=True)
class FakeOptions:
    """How a FakeEngine behaves; each field can stand in MODEL_PATH, as in `fake:frame_seconds=0.02,name=csm`.

    name: what it calls itself.
    frame_seconds: between two frames of 80 ms; 0 is as fast as it can.
    first_frame_seconds: what a request's first frame takes beside that.
    stall_seconds, stall_after: a request that has so many frames makes none for so long, once. Both stand for an
        engine that is late; they are as exact as frame_seconds, which has to be above 0 for them.
    load_seconds: how long loading takes.
    load_fails: loading ends with CheckpointError.
    trouble: a file that says in one word what goes wrong while loading, read anew each time: fails (CheckpointError),
        memory (EngineOutOfMemory), exits (the process ends with EXIT_STATUS), hangs. No file: nothing.
    max_voice_seconds: the longest prompt it takes; 0 is any.
    """

    name: str = "fake"
    frame_seconds: float = 0.0
    first_frame_seconds: float = 0.0
    stall_seconds: float = 0.0
    stall_after: int = 5
    load_seconds: float = 0.0
    load_fails: bool = False
    trouble: str = ""
    max_voice_seconds: float = 0.0

    @staticmethod
    def parse(model: str) -> FakeOptions:
        """Read `fake` or `fake:name=value,…`. Raises CheckpointError for a name it does not know."""
        options = FakeOptions()
        known = {each.name: type(getattr(options, each.name)) for each in fields(FakeOptions)}
        for pair in filter(None, model.partition(":")[2].split(",")):
            name, _, value = pair.partition("=")
            if name not in known:
                raise CheckpointError(f"MODEL_PATH={model}: {name!r} is none of {', '.join(known)}")
            parsed: Any = value == "true" if known[name] is bool else known[name](value)
            options = replace(options, **{name: parsed})
        return options


def tone(request: SpeechRequest, first_frame: int, frames: int) -> Samples:
    """The audio of some frames of a request: a sine whose pitch is the voice's own, without a break.

    Returns float32 (frames * 1920,).
    """
    key = request.voice.key if request.voice is not None else f"{request.speaker:x}"
    start = first_frame * FRAME_SAMPLES
    positions = np.arange(start, start + frames * FRAME_SAMPLES) % SAMPLE_RATE
    return np.asarray(_second_of(150 + int(key[:6], 16) % 500)[positions])


@lru_cache(maxsize=16)
def _second_of(hertz: int) -> Samples:
    """A second of a sine, which ends where it began. Kept, so that hundreds of fake listeners cost next to nothing."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)


def frames_of(request: SpeechRequest) -> int:
    """How many frames a request takes: one for each character, at most `max_frames`."""
    frames = len(request.text)
    if request.max_frames is None:
        return frames
    return request.max_frames if request.ignore_stop else min(frames, request.max_frames)


def _read_word(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except FileNotFoundError:
        return ""


@dataclass(eq=False)
class _Row:
    """A request on its way: waiting for its slots, or speaking."""

    request: SpeechRequest
    queue: AudioQueue
    fault: Fault | None
    frame_seconds: float
    made: int = 0  # frames, those of the unfinished slice among them
    emitted: int = 0  # frames
    not_before: float = 0.0  # when its next frame may be made
    slices: SlicePolicy = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        # on a clock of its own frames, so that the same request gives the same slices on a busy machine
        self.slices = SlicePolicy(
            request.first_slice_frames, request.slice_frames, lambda: self.made * self.frame_seconds
        )

    @property
    def slots(self) -> int:
        return 2 if self.request.guidance > 0 else 1

    def emit(self, last: bool) -> None:
        samples = tone(self.request, self.emitted, self.made - self.emitted)
        codes = np.full((self.made - self.emitted, 1), self.made, np.int64)
        self.queue.put(
            AudioChunk(samples, codes, in_last_text_chunk=True, ends_text_chunk=last, ends_speech=last),
        )
        self.emitted = self.made
        self.slices.emitted()


class FakeEngine:
    """Speaks tones. Its thread owns all rows; others reach it through a mailbox that is safe in finalizers.

    slots: how many requests speak at once; more wait in the order they came.
    audio_queue_slices: how many slices a row may be ahead of its reader before it is held.
    fault: goes wrong in every request whose text names no fault of its own.
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
        self.prepared: list[tuple[str, int]] = []  # (key, speaker) of the voices that were prepared, in order
        self._options = options
        self._audio_queue_slices = audio_queue_slices
        self._fault = fault
        self._inbox: SimpleQueue[_Row | None] = SimpleQueue()  # None: look again, something changed
        self._waiting: deque[_Row] = deque()
        self._speaking: list[_Row] = []
        self._error: str | None = None
        self._at_work_since: float | None = None  # None while its thread waits for something to do
        self._closing = threading.Event()
        self._door = threading.Lock()  # nobody comes in behind the last look at the inbox
        self._shut = False
        self._thread = threading.Thread(target=self._run, name="fake-engine", daemon=True)
        self._thread.start()

    @staticmethod
    def load(model: str, slots: int, audio_queue_slices: int, progress: Progress) -> FakeEngine:
        """What `load_engine` is to a real one. Raises CheckpointError if the options say so."""
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

    # ---- what engine.Engine promises

    def stream(self, request: SpeechRequest) -> SpeechStream:
        queue = AudioQueue(self._audio_queue_slices, lambda: self._inbox.put(None))
        row = _Row(request, queue, Fault.of(request.text) or self._fault, self._options.frame_seconds)
        if row.slots > self.slots:
            raise InvalidRequest(f"guidance above 0 takes 2 slots and this engine has {self.slots}: send guidance 0")
        if request.voice is not None:
            self._check_voice(request.voice)
        with self._door:
            if self._error is not None:
                raise EngineFailed(self._error)
            if self._shut:
                raise EngineClosed("the engine is closed")
            self._inbox.put(row)
        return SpeechStream(queue, request)

    def generate(self, request: SpeechRequest) -> Speech:
        return self.stream(request).collect()

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        self._check_voice(voice)
        self.prepared.append((voice.key, speaker))

    def status(self) -> EngineStatus:
        waiting = sum(not row.queue.done for row in list(self._waiting))
        return EngineStatus(
            engine=self.name,
            device="cpu",
            slots=self.slots,
            active=sum(row.slots for row in list(self._speaking) if not row.queue.done),
            queued=waiting + self._inbox.qsize(),
            error=self._error,
            stalled_seconds=0.0 if (since := self._at_work_since) is None else time.monotonic() - since,
            detail={"fingerprint": f"fake-{self.name}"},
        )

    def close(self) -> None:
        self._closing.set()
        self._inbox.put(None)
        self._thread.join()

    def _check_voice(self, voice: VoicePrompt) -> None:
        if self.max_voice_seconds is not None and voice.seconds > self.max_voice_seconds:
            raise PromptTooLong(f"the voice has {voice.seconds:.1f} s, at most {self.max_voice_seconds} s fit")

    # ---- its thread

    def _run(self) -> None:
        error: EngineClosed | EngineFailed = EngineClosed("the engine was closed")
        next_frame = time.monotonic()
        try:
            while not self._closing.is_set():
                self._read_inbox(next_frame)
                self._free_and_admit()
                now = self._at_work_since = time.monotonic()
                if now >= next_frame:
                    due = next_frame + self._options.frame_seconds
                    next_frame = due if due >= now else now + self._options.frame_seconds  # it was idle
                    self._speak_a_frame()
        except EngineFailed as broken:
            self._error, error = str(broken), broken
        self._at_work_since = None
        with self._door:
            self._shut = True
        self._read_inbox(0.0)
        for row in [*self._speaking, *self._waiting]:
            row.queue.end(error)
        self._speaking.clear()
        self._waiting.clear()

    def _read_inbox(self, next_frame: float) -> None:
        """Take in what came. Waits until then at most; for ever if nobody could speak a frame anyhow."""
        idle = all(row.queue.full and not row.queue.done for row in self._speaking)
        timeout = None if idle and not self._shut else max(next_frame - time.monotonic(), 0.0)
        self._at_work_since = None
        try:
            came = self._inbox.get(block=timeout != 0.0, timeout=timeout)
            while True:
                if came is not None:
                    self._waiting.append(came)
                came = self._inbox.get(block=False)
        except Empty:
            pass

    def _free_and_admit(self) -> None:
        self._speaking = [row for row in self._speaking if not row.queue.done]
        self._waiting = deque(row for row in self._waiting if not row.queue.done)
        taken = sum(row.slots for row in self._speaking)
        while self._waiting and taken + self._waiting[0].slots <= self.slots:
            taken += self._waiting[0].slots
            row = self._waiting.popleft()
            row.not_before = time.monotonic() + self._options.first_frame_seconds
            self._speaking.append(row)

    def _speak_a_frame(self) -> None:
        options, now = self._options, time.monotonic()
        for row in self._speaking:
            if row.queue.full or row.queue.done or now < row.not_before:
                continue
            if row.fault is not None and row.made >= row.fault.after_frames:
                self._go_wrong(row, row.fault)
                continue
            row.made += 1
            if row.made == options.stall_after and options.stall_seconds:
                row.not_before = now + options.stall_seconds
            last = row.made >= frames_of(row.request)
            if last or row.made - row.emitted >= row.slices.size:
                row.emit(last)
            if last:
                row.queue.end()

    def _go_wrong(self, row: _Row, fault: Fault) -> None:
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
