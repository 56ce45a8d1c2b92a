from __future__ import annotations

import numpy as np
import pytest

from app.audio.timeline import ScriptTurn, Timeline
from engine import SAMPLE_RATE, AudioChunk, TextTiming, Word


def test_a_turn_that_begins_early_is_found_in_its_own_audio() -> None:
    """It begins before the last text chunk of the turn before it does."""
    noise = np.random.default_rng(1).normal(0, 0.2, SAMPLE_RATE // 2).astype(np.float32)
    samples = np.zeros(10 * SAMPLE_RATE, np.float32)
    samples[3 * SAMPLE_RATE :][: noise.size] = noise
    chunks = [
        (0, 6, [("One.", 0, 0, 4), ("Two.", 5, 4, 6)]),
        (6, 10, [("Three.", 10, 2, 10)]),
    ]
    timeline = Timeline("One. Two.\nThree.", turns=[ScriptTurn("a", "One. Two."), ScriptTurn("b", "Three.")])
    marks = []
    for first, after, texts in chunks:
        timings = tuple(
            TextTiming((Word(text, at, at + len(text)),), begin * SAMPLE_RATE, end * SAMPLE_RATE).moved(
                -first * SAMPLE_RATE
            )
            for text, at, begin, end in texts
        )
        codes = np.zeros((0, 0), np.int64)
        marks += timeline.push(AudioChunk(samples[first * SAMPLE_RATE : after * SAMPLE_RATE], codes, timings=timings))
    assert [(mark.turn, mark.voice_id, mark.begin, mark.end) for mark in marks] == [
        (0, "a", 0, 4),
        (0, "a", 4, 6),
        (1, "b", 2, 10),
    ]
    (word,) = marks[-1].words
    assert (word.begin, word.end) == pytest.approx((3.0, 3.5), abs=0.05)
