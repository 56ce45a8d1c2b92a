"""SlotEngine: whose turn it is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from engine import DialogueTurn, EngineConfig, SpeechRequest, SpeechStream, VoicePrompt
from engine.fallback.sliced_request import SlicedRequest
from engine.fallback.slot_engine import SlotEngine
from engine.stream import AudioQueue
from engine.types import SAMPLE_RATE


class _Piecewise(SlicedRequest):
    """A request that makes one piece of audio a turn, of the seconds that its text names."""

    def __init__(self, request: SpeechRequest, queue: AudioQueue, turns: list[str] | None = None) -> None:
        super().__init__(request, queue)
        self._turns = turns
        self._pieces: list[float] = []

    def synthesize(self) -> None:
        if self._turns is not None:
            self._turns.append(self.request.text)
        if not self._pieces:
            self.chunk = next(self.chunks)
            self._pieces = [float(seconds) for seconds in self.chunk.text.split()]
            self.begin_chunk(self.chunk)
        self.push(np.ones(int(self._pieces.pop(0) * SAMPLE_RATE), np.float32))
        if not self._pieces:
            self.end_chunk(self.chunk)


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
    queue = AudioQueue(1, lambda: None)
    request = _Piecewise(SpeechRequest(text="[pause:1s] 1", slice_frames=5), queue)
    stream = SpeechStream(queue, request.request)
    assert request.due == 100.0
    now = 103.0
    request.take_turn()
    assert request.due == pytest.approx(104.08)  # the pause, and a frame
    next(stream)
    assert request.due == pytest.approx(104.08)
    now = 110.0
    request.take_turn()
    assert request.due == pytest.approx(110.0 + 2 * 0.08)


def test_what_turns_share_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of each turn overlap the one before, and are held back until it comes."""
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    turns = tuple(DialogueTurn("3", gap_milliseconds=-2000) for _ in range(5))
    queue = AudioQueue(1000, lambda: None)
    request = _Piecewise(SpeechRequest(turns=turns, slice_frames=125), queue)
    stream = SpeechStream(queue, request.request)
    heard = 0.0
    for _ in turns:
        request.take_turn()
        while queue._chunks:
            joined = stream._joined(queue.get())
            heard += 0 if joined is None else joined.samples.size / SAMPLE_RATE
        assert request.due == pytest.approx(100.0 + heard)
    assert heard == pytest.approx(5 * 3 - 4 * 2)
