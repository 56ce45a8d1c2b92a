"""The CSM engine: one thread that speaks for all requests, and the only bridge between it and other threads."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .config import EngineConfig
from .errors import EngineClosed, EngineError, EngineFailed, EngineOutOfMemory
from .interface import Progress
from .loading import Loaded, load
from .prompter import Prompter
from .scheduler import Scheduler
from .stream import AudioQueue, SpeechStream
from .types import FRAME_MILLISECONDS, SAMPLE_RATE, EngineStatus, Speech, SpeechRequest, VoicePrompt
from .utterance import Utterance
from .voice_cache import VoiceCache

log = logging.getLogger(__name__)


class CsmEngine:
    """Implements engine.Engine on a loaded model. Threads talk to it through `_changed` and the inbox alone."""

    name = "csm"
    sample_rate = SAMPLE_RATE

    def __init__(self, loaded: Loaded, config: EngineConfig) -> None:
        self.slots = config.slots
        self._config, self._detail = config, loaded.detail
        self._runner = loaded.runner
        self._prompter = Prompter(self._runner, loaded.tokenizer, VoiceCache(config.voice_cache_bytes), config.slots)
        # half of the context, so that there is as much left to speak in
        self.max_voice_seconds: float | None = self._prompter.limit // 2 * FRAME_MILLISECONDS / 1000
        self._scheduler: Scheduler[Utterance] = Scheduler(config.slots)
        self._changed = threading.Condition()
        self._inbox: list[Utterance] = []
        self._nudged = False
        self._closing = False
        self._error: EngineFailed | None = None
        self._busy_since: float | None = None  # when the thread last took up work; None while it sleeps
        self._thread = threading.Thread(target=self._run, name="csm-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, config: EngineConfig, progress: Progress) -> CsmEngine:
        """Load the checkpoint and start. Raises CheckpointNotFound, CheckpointError, EngineOutOfMemory."""
        return cls(load(config, progress), config)

    # ---- any thread

    def stream(self, request: SpeechRequest) -> SpeechStream:
        utterance = self._prompter.plan(request, AudioQueue(self._config.audio_queue_slices, self._nudge))
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._inbox.append(utterance)
        self._nudge()
        return SpeechStream(utterance.queue, request)

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
            detail={**self._detail, "voice_cache_bytes": self._prompter.voices.nbytes},
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
                self._drop_closed()
                self._admit()
                self._prefill()
                self._speak()
        except Exception as error:
            log.exception("the engine failed")
            self._error = _failure(error)
        self._busy_since = None
        self._end_all(self._error or EngineClosed("the engine was closed"))

    def _wait_for_work(self) -> bool:
        """Take in what came; sleep while there is nothing to do. False when the engine closes."""
        with self._changed:
            self._busy_since = None
            while not (self._closing or self._nudged or any(self._can_work(each) for each in self._scheduler.running)):
                self._changed.wait()
            self._nudged = False
            for utterance in self._inbox:
                self._scheduler.enqueue(utterance)
            self._inbox.clear()
            self._busy_since = time.monotonic()
            return not self._closing

    @staticmethod
    def _can_work(utterance: Utterance) -> bool:
        return utterance.speaks or not utterance.ready

    def _drop_closed(self) -> None:
        for utterance in self._scheduler:
            if utterance.queue.closed:
                self._scheduler.release(utterance)

    def _admit(self) -> None:
        for utterance in self._scheduler.admit():
            with self._its_own_failure(utterance):
                self._prompter.begin(utterance)

    def _prefill(self) -> None:
        """Bring every row that has just come, or begins a new chunk, nearer to speaking.

        While others speak, they wait for no more than a bounded number of positions a frame.
        """
        speaking = any(each.speaks for each in self._scheduler.running)
        budget = self._runner.prefill_positions if speaking else sys.maxsize
        for utterance in [each for each in self._scheduler.running if not each.ready]:
            with self._its_own_failure(utterance):
                budget = self._prompter.advance(utterance, budget, wait=not speaking)
                speaking = speaking or utterance.ready

    def _speak(self) -> None:
        speaking = [each for each in self._scheduler.running if each.speaks]
        if not speaking:
            return
        frame = self._runner.step([row for each in speaking for row in each.rows])
        for utterance in speaking:
            row = utterance.rows[0]
            stopped = bool(frame.stopped[row]) and not utterance.request.ignore_stop
            if not stopped:
                utterance.add_frame(frame.codes[row], frame.samples[row])
            if stopped or utterance.at_bound:
                with self._its_own_failure(utterance):
                    self._end_chunk(utterance, stopped)

    def _end_chunk(self, utterance: Utterance, stopped: bool) -> None:
        utterance.end_chunk(stopped)
        if utterance.chunks_left:
            self._prompter.begin_chunk(utterance)
        else:
            utterance.queue.end()
            self._scheduler.release(utterance)

    @contextmanager
    def _its_own_failure(self, utterance: Utterance) -> Iterator[None]:
        """What goes wrong in here ends this utterance and no other."""
        try:
            yield
        except Exception as error:
            log.exception("a request failed")
            utterance.queue.end(error if isinstance(error, EngineError) else _failure(error))
            self._scheduler.release(utterance)

    def _end_all(self, error: EngineError) -> None:
        with self._changed:
            self._closing = True
            waiting, self._inbox = self._inbox, []
        for utterance in [*self._scheduler, *waiting]:
            utterance.queue.end(error)


def _failure(error: Exception) -> EngineFailed:
    kind = EngineOutOfMemory if isinstance(error, torch.OutOfMemoryError) else EngineFailed
    return kind(f"the engine failed: {type(error).__name__}: {error}")
