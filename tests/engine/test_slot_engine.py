"""SlotEngine: whose turn it is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from engine import AudioChunk, EngineConfig, SpeechRequest, VoicePrompt
from engine.fallback.audio_slices import AudioSlicer
from engine.fallback.slot_engine import SlotEngine
from engine.stream import AudioQueue
from engine.types import SAMPLE_RATE


class _Piecewise:
    """A request that makes one piece of audio a turn, of the seconds that its text names."""

    silence = None

    def __init__(self, request: SpeechRequest, queue: AudioQueue, turns: list[str]) -> None:
        self.queue = queue
        self._name = request.text
        self._pieces = [float(seconds) for seconds in request.text.split()]
        self._turns = turns
        self._slicer = AudioSlicer(request)
        self._slicer.begin_chunk(is_last=True)

    @property
    def due(self) -> float:
        return self._slicer.due

    @property
    def waiting_for_text(self) -> bool:
        return False

    def take_turn(self) -> None:
        self._turns.append(self._name)
        self._slicer.push(np.zeros(int(self._pieces.pop(0) * SAMPLE_RATE), np.float32))
        if not self._pieces:
            self._slicer.end_chunk(is_last=True)
        while (chunk := self._slicer.take()) is not None:
            self.queue.put(chunk)
        if self._slicer.speech_ended:
            self.queue.end()


class _Engine(SlotEngine):
    name = "piecewise"

    def __init__(self) -> None:
        super().__init__(EngineConfig(model="piecewise", slots=3, audio_queue_slices=1000))
        self.turns: list[str] = []

    def start(self) -> None:
        self._start_threads()

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        """Its requests have no voices."""

    def _request(self, request: SpeechRequest, queue: AudioQueue) -> _Piecewise:
        return _Piecewise(request, queue, self.turns)

    def _detail(self) -> dict[str, object]:
        return {}


@pytest.fixture
def engine() -> Iterator[_Engine]:
    engine = _Engine()
    yield engine
    engine.close()


def test_the_next_turn_is_that_of_the_listener_whose_audio_ends_first(engine: _Engine) -> None:
    long, short, late = "8 8 8", "3 3 3 3", "20 1"
    streams = [engine.stream(SpeechRequest(text=text)) for text in (long, short, late)]
    engine.start()
    for stream in streams:
        stream.collect()
    # Heard until 8, 3 and 20 s, then short until 6 and 9, long until 16, short to its end, long to its end.
    assert engine.turns == [long, short, late, short, short, long, short, long, late]


def test_a_listener_who_has_heard_all_waits_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    slicer = AudioSlicer(SpeechRequest(text="a"))
    assert slicer.due == 100.0
    slicer.begin_chunk(is_last=True, pause_before=SAMPLE_RATE)
    slicer.push(np.zeros(SAMPLE_RATE, np.float32))
    now = 103.0
    first = slicer.take()
    assert isinstance(first, AudioChunk)
    assert slicer.due == pytest.approx(104.08)  # the pause, and a frame
    now = 110.0
    second = slicer.take()
    assert isinstance(second, AudioChunk)
    assert slicer.due == pytest.approx(110.0 + second.samples.size / SAMPLE_RATE)
