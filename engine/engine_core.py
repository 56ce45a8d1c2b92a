"""The CSM engine's core loop: one thread that admits, prefills, decodes and emits audio for all requests.

`stream`, `generate`, `status` and `close` may be called from any thread; they reach the loop through an inbox.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .config import EngineConfig
from .errors import EngineClosed, EngineError, EngineFailed, EngineOutOfMemory, PromptTooLong
from .frame_pipeline import Frame
from .interface import Progress
from .loading import Loaded, graph_detail, load
from .prefill_budget import BEFORE_PLAYBACK, BufferedAudio, PlaybackClock, PrefillBudget
from .prompt_builder import PromptBuilder
from .prompt_packing import PromptPiece
from .request_state import RequestState
from .scheduler import Scheduler
from .stored_codes import StoredCodes
from .stream import AudioQueue, SpeechStream, silent_stream
from .types import FRAME_MILLISECONDS, SAMPLE_RATE, Codes, EngineStatus, Speech, SpeechRequest, VoicePrompt
from .voice_cache import VoiceCache
from .voice_encoder import VoiceEncoder

log = logging.getLogger(__name__)

# Of a frame's duration, during which requests are admitted beside it.
_ADMISSION_SHARE = 0.8

# On a CPU the voice encoder competes with the frame step for the same cores. Five steps of niceness give a thread a
# third of the weight, so the encoder gets a quarter of the contended time: the share PrefillBudget always grants.
_ENCODER_NICENESS = {"cpu": 5, "cuda": 0}


@dataclass(frozen=True)
class _InFlightFrame:
    """A launched frame that has not been emitted yet."""

    frame: Frame
    requests: list[RequestState]  # that the frame was launched for
    finishing: set[RequestState]  # the subset whose text chunk ends with this frame


class CsmEngine:
    """Implements engine.Engine on a loaded model.

    All state belongs to the engine thread, except the fields that `_changed` guards: the inbox and the flags.
    """

    name = "csm"
    sample_rate = SAMPLE_RATE

    def __init__(self, loaded: Loaded, config: EngineConfig) -> None:
        self.slots = loaded.slots
        self._config, self._detail = config, loaded.detail
        self._runner = loaded.runner
        self._changed = threading.Condition()
        self._encoder = VoiceEncoder(
            StoredCodes(self._runner).encode,
            self._wake,
            niceness=_ENCODER_NICENESS[self._runner.device.type],
        )
        voice_cache = VoiceCache(loaded.voice_cache_bytes)
        self._prompt_builder = PromptBuilder(
            self._runner, loaded.tokenizer, voice_cache, self._encoder, self.slots, self._wake
        )
        # half of the context, so that the other half remains for text and audio
        self.max_voice_seconds: float | None = self._prompt_builder.max_positions // 2 * FRAME_MILLISECONDS / 1000
        self._scheduler: Scheduler[RequestState] = Scheduler(self.slots)
        self._inbox: list[RequestState] = []
        self._recording = loaded.recording  # of graphs that are left to record; the engine thread's
        self._streamed = False  # whether `stream` has been given a request
        self._woken = False
        self._closing = False
        self._error: EngineFailed | None = None
        self._busy_since: float | None = None  # start of the current iteration; None while the thread sleeps
        self._prefill_budget = PrefillBudget(self._runner.min_prefill_positions, self._runner.position_seconds)
        self._prefilled = 0  # positions in the current iteration
        self._playback = PlaybackClock()
        self._in_flight: _InFlightFrame | None = None  # launched in the last iteration, not emitted yet
        self._thread = threading.Thread(target=self._run, name="csm-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, config: EngineConfig, progress: Progress) -> CsmEngine:
        """Load the checkpoint and start. Raises CheckpointNotFound, CheckpointError, EngineOutOfMemory."""
        return cls(load(config, progress), config)

    # ---- any thread

    def stream(self, request: SpeechRequest) -> SpeechStream:
        with self._changed:
            self._streamed = True
        return self._open(request)

    def generate(self, request: SpeechRequest) -> Speech:
        return self._open(request).collect()

    def _open(self, request: SpeechRequest) -> SpeechStream:
        state = self._prompt_builder.plan(request, AudioQueue(self._config.audio_queue_slices, self._wake))
        if not state.chunks.current.text:
            return silent_stream(request, state.chunks.current.pause_before)
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._inbox.append(state)
        self._wake()
        return SpeechStream(state.queue, request)

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        request = SpeechRequest(text="a", speaker=speaker, voice=voice, max_frames=1, temperature=0.0)
        self.generate(request)

    def encode(self, voice: VoicePrompt) -> Codes | None:
        assert self.max_voice_seconds is not None
        if voice.seconds > self.max_voice_seconds:
            raise PromptTooLong(f"the recording has {voice.seconds:.1f} s, at most {self.max_voice_seconds:.1f} s fit")
        return self._encoder.encode_now(voice)

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
            detail={**self._detail, "voice_cache_bytes": self._prompt_builder.voice_cache.nbytes},
        )

    def close(self) -> None:
        with self._changed:
            self._closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        """Have the engine thread run an iteration."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    # ---- the engine thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._receive()
                self._release_closed()
                self._scheduler.admit()
                started = time.monotonic()
                self._prefilled = self._prefill()
                launched = time.monotonic()
                stepped = self._step()
                self._measure(launched - started, time.monotonic() - launched, stepped)
                if self._may_record():
                    self._record_graph()
        except Exception as error:
            log.exception("the engine failed")
            self._error = _as_engine_failure(error)
        self._busy_since = None
        self._abort_all(self._error or EngineClosed("the engine was closed"))
        self._encoder.close()
        self._prompt_builder.close()

    def _measure(self, prefill_seconds: float, step_seconds: float, stepped: bool) -> None:
        """Tell the prefill budget what this iteration took."""
        if not self._runner.overlaps:
            self._prefill_budget.record(prefill_seconds, self._prefilled, stepped=False)
            self._prefill_budget.record(step_seconds, 0, stepped)
        elif not self._prefilled:  # else the step has waited for the prefill, which was measured at load
            self._prefill_budget.record(prefill_seconds + step_seconds, 0, stepped)

    def _wait_for_work(self) -> bool:
        """Sleep until there is work. Returns False when the engine closes."""
        with self._changed:
            self._busy_since = None
            while not (self._closing or self._woken or self._has_work() or self._may_record()):
                self._changed.wait()
            self._woken = False
            self._busy_since = time.monotonic()
            return not self._closing

    def _has_work(self) -> bool:
        return self._in_flight is not None or any(
            each.runnable or not (each.ready or each.waiting_for_voice or each.waiting_for_text)
            for each in self._scheduler.running
        )

    def _may_record(self) -> bool:
        """Whether graphs are left to record and there is time: no request is here, and there was one."""
        if self._recording is None or self._in_flight is not None or any(True for _ in self._scheduler):
            return False
        with self._changed:
            return self._streamed and not self._inbox

    def _record_graph(self) -> None:
        """Record one graph, for which a request that comes now has to wait."""
        assert self._recording is not None
        if not self._recording.record_one():
            self._recording = None
        self._detail = {**self._detail, **graph_detail(self._runner)}
        if self._recording is None:
            log.info("all graphs are recorded: %s", graph_detail(self._runner))

    def _receive(self) -> None:
        """Take encoded voices and new requests from other threads. Voices are encoded while their requests queue."""
        self._prompt_builder.cache_voice_codes()
        with self._changed:
            received, self._inbox = self._inbox, []
            for state in received:
                self._scheduler.enqueue(state)
        for state in received:  # outside the lock: the encoder has its own
            self._prompt_builder.request_voice_codes(state)

    def _release_closed(self) -> None:
        """Free the rows of requests whose readers have closed their streams."""
        for state in self._scheduler:
            if state.queue.closed:
                self._scheduler.release(state)

    def _prefill(self) -> int:
        """Prefill the requests that are new or begin a text chunk, all in one go. Returns the prefilled positions.

        The budget is what the buffered audio of the requests that are decoding allows.
        """
        pending = [each for each in self._scheduler.running if not (each.ready or each.waiting_for_text)]
        if not pending:
            return 0
        budget = self._prefill_budget.budget(self._buffered(each) for each in self._scheduler.running if each.runnable)
        batch, pieces = self._take_prompts(pending, budget)
        with self._isolate_failure(*batch):
            self._prompt_builder.prefill(pieces)
            for state in batch:
                self._prompt_builder.start_prefilled(state)
        for held in self._scheduler.running:
            if held.ready and not held.runnable:
                self._playback.hold(held, held.frames, held.request, held.surplus_seconds)
        return sum(piece.prefill.length for piece in pieces)

    def _take_prompts(self, pending: list[RequestState], budget: int) -> tuple[list[RequestState], list[PromptPiece]]:
        """The prompts that fit into the budget, in order of arrival, and the requests that they are of."""
        batch: list[RequestState] = []
        pieces: list[PromptPiece] = []
        for state in pending:
            if state.chunk_ended and state.at_end_of_written_text:
                self._playback.text_came(state, state.frames, state.surplus_seconds)
            with self._isolate_failure(state):
                taken = self._prompt_builder.take(state, budget)
                self._release_ended(state)
                budget -= sum(piece.prefill.length for piece in taken)
                if taken:
                    batch.append(state)
                    pieces += taken
        return batch, pieces

    def _buffered(self, state: RequestState) -> BufferedAudio:
        if state.queue.audio_seconds <= 0:
            return BEFORE_PLAYBACK
        return self._playback.buffered(state, state.frames, state.request, state.surplus_seconds)

    def _step(self) -> bool:
        """Launch one frame for every runnable request and emit a finished one. Returns whether a frame was launched.

        On a GPU the previous frame is emitted while this one is computed. Requests that finish with the previous frame
        are known from its codes before its samples are emitted; they are left out of this step.
        """
        previous, self._in_flight = self._in_flight, None
        finishing = previous.finishing if previous else set()
        requests = [each for each in self._scheduler.running if each.runnable and each not in finishing]
        frame = self._runner.launch([row for each in requests for row in each.rows]) if requests else None
        if previous is not None:
            self._emit(previous)
        if frame is not None:
            self._admit_beside(frame)
            current = _InFlightFrame(frame, requests, {each for each in requests if self._finishes_chunk(each, frame)})
            if self._runner.overlaps:
                self._in_flight = current
            else:
                self._emit(current)
        return frame is not None

    def _admit_beside(self, frame: Frame) -> None:
        """Admit requests that arrive while the frame is computed: their prompts are prefilled beside it.

        Ends a little before the frame should, because then the thread has to wait for the frame itself.
        """
        until = time.monotonic() + _ADMISSION_SHARE * self._prefill_budget.step_seconds
        while not frame.computed and (left := until - time.monotonic()) > 0:
            with self._changed:
                if not self._woken:
                    self._changed.wait(left)
                arrived, self._woken = self._woken, False
            if arrived:
                self._receive()
                self._scheduler.admit()
                self._prefilled += self._prefill()

    def _finishes_chunk(self, state: RequestState, frame: Frame) -> bool:
        """Whether the text chunk ends with this frame: by a limit on frames, or because it is the stop frame."""
        request, row = state.request, state.rows[0]
        at_chunk_limit = self._runner.frames_made(row) >= state.chunks.current.max_frames
        at_max_frames = request.max_frames is not None and state.frames + 1 >= request.max_frames
        return at_chunk_limit or at_max_frames or (bool(frame.stopped[row]) and not request.ignore_stop)

    def _emit(self, current: _InFlightFrame) -> None:
        """Add the frame's codes and samples to each request's output, and finish text chunks that end with it."""
        frame = current.frame
        for state in current.requests:
            if not state.rows:
                continue  # released since the launch
            row = state.rows[0]
            stopped = bool(frame.stopped[row]) and not state.request.ignore_stop
            if not stopped:
                begins = state.queue.audio_seconds <= 0
                state.add_frame(frame.codes[row], frame.samples[row])
                self._playback.frame_emitted(state, begins)
            if stopped or state.at_chunk_limit:
                with self._isolate_failure(state):
                    self._finish_chunk(state, stopped)

    def _finish_chunk(self, state: RequestState, stopped: bool) -> None:
        state.finish_chunk(stopped)
        self._release_ended(state)

    def _release_ended(self, state: RequestState) -> None:
        if state.speech_ended:
            state.queue.end()
            self._scheduler.release(state)

    @contextmanager
    def _isolate_failure(self, *states: RequestState) -> Iterator[None]:
        """An exception in the block fails and releases these requests only."""
        try:
            yield
        except Exception as error:
            log.exception("%d request(s) failed", len(states))
            for state in states:
                state.queue.end(error if isinstance(error, EngineError) else _as_engine_failure(error))
                self._scheduler.release(state)

    def _abort_all(self, error: EngineError) -> None:
        with self._changed:
            self._closing = True
            received, self._inbox = self._inbox, []
        for state in [*self._scheduler, *received]:
            state.queue.end(error)


def _as_engine_failure(error: Exception) -> EngineFailed:
    kind = EngineOutOfMemory if isinstance(error, torch.OutOfMemoryError) else EngineFailed
    return kind(f"the engine failed: {type(error).__name__}: {error}")
