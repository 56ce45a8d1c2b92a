"""The CSM engine: one thread that speaks for all requests, and the only bridge between it and other threads."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .config import EngineConfig
from .errors import EngineClosed, EngineError, EngineFailed, EngineOutOfMemory
from .frame_pipeline import Frame
from .interface import Progress
from .loading import Loaded, load
from .prefill_budget import BEFORE_PLAYBACK, BufferedAudio, PlaybackClock, PrefillBudget
from .prompt_builder import PromptBuilder
from .request_state import RequestState
from .scheduler import Scheduler
from .stream import AudioQueue, SpeechStream
from .types import FRAME_MILLISECONDS, SAMPLE_RATE, EngineStatus, Speech, SpeechRequest, VoicePrompt
from .voice_cache import VoiceCache
from .voice_encoder import VoiceEncoder

log = logging.getLogger(__name__)

# On a CPU a voice is encoded by the processors that make the frames. Five steps of niceness are a third of a thread's
# weight, so it takes a quarter of what both want: what PrefillPace gives to prompts at any time.
_ENCODER_NICENESS = {"cpu": 5, "cuda": 0}


@dataclass(frozen=True)
class _Unheard:
    """A frame that was made and not given out yet, for whom, and who of them ends with it."""

    frame: Frame
    speaking: list[RequestState]
    ending: set[RequestState]


class CsmEngine:
    """Implements engine.Engine on a loaded model. Threads talk to it through `_changed` and the inbox alone."""

    name = "csm"
    sample_rate = SAMPLE_RATE

    def __init__(self, loaded: Loaded, config: EngineConfig) -> None:
        self.slots = loaded.slots
        self._config, self._detail = config, loaded.detail
        self._runner = loaded.runner
        self._changed = threading.Condition()
        self._encoder = VoiceEncoder(
            lambda voice: self._runner.encode(voice.samples, voice.sample_rate),
            self._nudge,
            niceness=_ENCODER_NICENESS[self._runner.device.type],
        )
        voices = VoiceCache(loaded.voice_cache_bytes)
        self._prompt_builder = PromptBuilder(self._runner, loaded.tokenizer, voices, self._encoder, self.slots)
        # half of the context, so that there is as much left to speak in
        self.max_voice_seconds: float | None = self._prompt_builder.limit // 2 * FRAME_MILLISECONDS / 1000
        self._scheduler: Scheduler[RequestState] = Scheduler(self.slots)
        self._inbox: list[RequestState] = []
        self._nudged = False
        self._closing = False
        self._error: EngineFailed | None = None
        self._busy_since: float | None = None  # when the thread last took up work; None while it sleeps
        self._prefill_budget = PrefillBudget(self._runner.min_prefill_positions)
        self._playback = PlaybackClock()
        self._unheard: _Unheard | None = None  # the frame that was made last, while its sound is still on its way
        self._thread = threading.Thread(target=self._run, name="csm-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, config: EngineConfig, progress: Progress) -> CsmEngine:
        """Load the checkpoint and start. Raises CheckpointNotFound, CheckpointError, EngineOutOfMemory."""
        return cls(load(config, progress), config)

    # ---- any thread

    def stream(self, request: SpeechRequest) -> SpeechStream:
        state = self._prompt_builder.plan(request, AudioQueue(self._config.audio_queue_slices, self._nudge))
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._inbox.append(state)
        self._nudge()
        return SpeechStream(state.queue, request)

    def generate(self, request: SpeechRequest) -> Speech:
        return self.stream(request).collect()

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        request = SpeechRequest(text="a", speaker=speaker, voice=voice, max_frames=1, temperature=0.0)
        self.generate(request)

    def status(self) -> EngineStatus:
        busy_since = self._busy_since
        return EngineStatus(
            engine=self.name,
            device=str(self._runner.device),
            slots=self.slots,
            active=self._scheduler.rows_taken,
            queued=self._scheduler.waiting + len(self._inbox),
            error=None if self._error is None else str(self._error),
            stalled_seconds=0.0 if busy_since is None else time.monotonic() - busy_since,
            detail={**self._detail, "voice_cache_bytes": self._prompt_builder.voices.nbytes},
        )

    def close(self) -> None:
        with self._changed:
            self._closing = True
        self._nudge()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _nudge(self) -> None:
        """Something changed that the engine's thread should look at."""
        with self._changed:
            self._nudged = True
            self._changed.notify()

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._take_in()
                self._drop_closed()
                self._scheduler.admit()
                begun = time.monotonic()
                prefilled = self._prefill()
                spoke = self._speak()
                self._prefill_budget.took(time.monotonic() - begun, prefilled, spoke)
        except Exception as error:
            log.exception("the engine failed")
            self._error = _failure(error)
        self._busy_since = None
        self._end_all(self._error or EngineClosed("the engine was closed"))
        self._encoder.close()

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do. False when the engine closes."""
        with self._changed:
            self._busy_since = None
            while not (self._closing or self._nudged or self._has_work()):
                self._changed.wait()
            self._nudged = False
            self._busy_since = time.monotonic()
            return not self._closing

    def _has_work(self) -> bool:
        return self._unheard is not None or any(
            each.runnable or not (each.ready or each.waiting_for_voice) for each in self._scheduler.running
        )

    def _take_in(self) -> None:
        """What came from other threads: codes of voices, and requests, whose voices may be encoded while they wait."""
        self._prompt_builder.cache_voice_codes()
        with self._changed:
            came, self._inbox = self._inbox, []
            for state in came:
                self._scheduler.enqueue(state)
        for state in came:  # not under the lock: the encoder has one of its own
            self._prompt_builder.request_voice_codes(state)

    def _drop_closed(self) -> None:
        for state in self._scheduler:
            if state.queue.closed:
                self._scheduler.release(state)

    def _prefill(self) -> int:
        """Bring every row that has just come, or begins a new chunk, nearer to speaking. Positions that were read.

        While others speak, no more is read than their listeners can spare.
        """
        waiting = [each for each in self._scheduler.running if not each.ready]
        if not waiting:
            return 0
        leads = [self._lead(each) for each in self._scheduler.running if each.runnable]
        budget = self._prefill_budget.budget(leads) if leads else sys.maxsize
        read = 0
        for state in waiting:
            with self._its_own_failure(state):
                left = self._prompt_builder.prefill(state, budget, wait=not leads)
                read += budget - left
                budget = left
                if state.ready and not leads:  # the first of a burst: from here on it waits for the others
                    leads = [BEFORE_PLAYBACK]
                    budget = self._prefill_budget.budget(leads)
        for held in self._scheduler.running:
            if held.ready and not held.runnable:
                self._playback.lag(held, held.frames, held.request)
        return read

    def _lead(self, state: RequestState) -> BufferedAudio:
        return self._playback.lead(state, state.frames, state.request)

    def _speak(self) -> bool:
        """One frame for all who can speak. Where another processor makes it, the one before goes out meanwhile.

        Who ends with the frame before is known from its codes, though it is not heard yet, and takes no part.
        """
        before, self._unheard = self._unheard, None
        ending = before.ending if before else set()
        speaking = [each for each in self._scheduler.running if each.runnable and each not in ending]
        frame = self._runner.launch([row for each in speaking for row in each.rows]) if speaking else None
        if before is not None:
            self._hand_out(before)
        if frame is not None:
            made = _Unheard(frame, speaking, {each for each in speaking if self._ends(each, frame)})
            if self._runner.overlaps:
                self._unheard = made
            else:
                self._hand_out(made)
        return frame is not None

    def _ends(self, state: RequestState, frame: Frame) -> bool:
        """The frame just made is the last of this text chunk, or says that there is none."""
        request, row = state.request, state.rows[0]
        at_chunk_limit = self._runner.frames_made(row) >= state.row_states[0].chunks[state.chunk_index].max_frames
        at_end = request.max_frames is not None and state.frames + 1 >= request.max_frames
        return at_chunk_limit or at_end or (bool(frame.stopped[row]) and not request.ignore_stop)

    def _hand_out(self, made: _Unheard) -> None:
        for state in made.speaking:
            if not state.rows:
                continue  # it has left since
            row = state.rows[0]
            stopped = bool(made.frame.stopped[row]) and not state.request.ignore_stop
            if not stopped:
                state.add_frame(made.frame.codes[row], made.frame.samples[row])
                self._playback.hear(state)
            if stopped or state.at_chunk_limit:
                with self._its_own_failure(state):
                    self._end_chunk(state, stopped)

    def _end_chunk(self, state: RequestState, stopped: bool) -> None:
        state.finish_chunk(stopped)
        if state.has_more_chunks:
            self._prompt_builder.queue_chunk(state)
        else:
            state.queue.end()
            self._scheduler.release(state)

    @contextmanager
    def _its_own_failure(self, state: RequestState) -> Iterator[None]:
        """What goes wrong in here ends this state and no other."""
        try:
            yield
        except Exception as error:
            log.exception("a request failed")
            state.queue.end(error if isinstance(error, EngineError) else _failure(error))
            self._scheduler.release(state)

    def _end_all(self, error: EngineError) -> None:
        with self._changed:
            self._closing = True
            waiting, self._inbox = self._inbox, []
        for state in [*self._scheduler, *waiting]:
            state.queue.end(error)


def _failure(error: Exception) -> EngineFailed:
    kind = EngineOutOfMemory if isinstance(error, torch.OutOfMemoryError) else EngineFailed
    return kind(f"the engine failed: {type(error).__name__}: {error}")
