"""Smart Turn's weights from Pipecat's package, beside Pipecat's own code, and the turns that they end."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from app.audio.rate_converter import resample
from app.realtime import service
from app.realtime.smart_turn import SECONDS, SmartTurn, find_weights, log_mel
from app.realtime.vad import RATE
from app.settings import Settings

from .harness import Pcm, StubTranscriber, silence, speech, talking

needs_weights = pytest.mark.skipif(importlib.util.find_spec("pipecat") is None, reason="pipecat-ai is not installed")
SEMANTIC = {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high", "create_response": False}}}


class Judge:
    """In place of the network: the user has finished from so many seconds of speech and silence on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.heard: list[float] = []  # seconds

    def finished(self, turn: Any) -> float:
        self.heard.append(turn.size / RATE)
        return float(self.heard[-1] >= self._seconds)


@pytest.fixture
async def app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    async with run(settings) as app:
        app.state.realtime.transcriber = StubTranscriber()
        yield app


def judged_by(monkeypatch: pytest.MonkeyPatch, judge: Judge) -> Judge:
    monkeypatch.setattr(service, "find_weights", lambda: "weights")
    monkeypatch.setattr(service, "SmartTurn", lambda weights: judge)
    return judge


async def turns(app: FastAPI, *pieces: Pcm) -> list[tuple[int, int]]:
    """(start, end) of the turns in a recording, in milliseconds."""
    async with talking(app, audio=SEMANTIC) as client:
        client.hear(np.concatenate(pieces))
        client.send("input_audio_buffer.clear")
        await client.next("input_audio_buffer.cleared")
        starts = [e["audio_start_ms"] for e in client.events if e["type"] == "input_audio_buffer.speech_started"]
        ends = [e["audio_end_ms"] for e in client.events if e["type"] == "input_audio_buffer.speech_stopped"]
    return list(zip(starts, ends, strict=False))


@pytest.mark.anyio
async def test_a_turn_that_sounds_finished_ends_at_once(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judged_by(monkeypatch, Judge(0.0))
    [(start, end)] = await turns(app, silence(0.5), speech()[:36_000], silence(1.0))
    assert end < 500 + 1500 + 400  # of the second of silence
    assert judge.heard == [pytest.approx((end - start) / 1000, abs=0.11)]  # to the end of the pause, not of the message


@pytest.mark.anyio
async def test_a_turn_that_sounds_unfinished_goes_on_after_a_pause(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judged_by(monkeypatch, Judge(4.0))
    spoken = speech()[:36_000]
    [(_, end)] = await turns(app, spoken, silence(1.2), spoken, silence(1.0))  # 1.2 s end a turn of any other kind
    assert 4200 < end < 4700
    assert len(judge.heard) >= 2


@pytest.mark.anyio
async def test_a_turn_that_never_sounds_finished_ends_by_its_silence(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(monkeypatch, Judge(60.0))
    [(_, end)] = await turns(app, speech()[:36_000], silence(2.5))
    assert 1500 + 1900 < end < 1500 + 2300


@pytest.mark.anyio
@pytest.mark.parametrize("missing", ["setting", "package", "weights"])
async def test_without_it_turns_end_by_silence(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing != "setting":
        found = None if missing == "package" else Path("/nowhere/smart-turn-v3.2-cpu.onnx")
        monkeypatch.setattr(service, "find_weights", lambda: found)
    async with run(settings.model_copy(update={"smart_turn": missing != "setting"})) as app:
        app.state.realtime.transcriber = StubTranscriber()
        [(_, end)] = await turns(app, speech()[:36_000], silence(1.0))
    assert 1500 + 300 < end < 1500 + 700  # 400 ms of silence


@needs_weights
def test_its_probabilities_are_pipecats() -> None:
    from pipecat.audio.turn.smart_turn._whisper_features import compute_whisper_log_mel_features
    from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3

    weights = find_weights()
    assert weights is not None
    smart_turn, reference = SmartTurn(weights), LocalSmartTurnAnalyzerV3(sample_rate=RATE)
    spoken = resample(speech().astype(np.float32) / 32768, 24_000, RATE)
    long = np.tile(spoken, 4)
    for turn in (spoken, spoken[:14_000], np.pad(spoken, (0, 2560)), long):
        heard = np.pad(turn[-SECONDS * RATE :].astype(np.float64), (max(SECONDS * RATE - turn.size, 0), 0))
        np.testing.assert_allclose(
            log_mel(heard), compute_whisper_log_mel_features(heard, do_normalize=True), atol=1e-3
        )
        expected = reference._predict_endpoint(turn.astype(np.float32))["probability"]
        assert smart_turn.finished(turn) == pytest.approx(expected, abs=0.05)  # int8 amplifies rounding
