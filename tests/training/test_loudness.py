"""Where somebody pauses, whatever the level and however loud the room."""

from __future__ import annotations

import numpy as np
import pytest

from training.loudness import Loudness

from .sounds import RATE, speech


@pytest.mark.parametrize("level", [1.0, 0.05])
@pytest.mark.parametrize("room", [0.0, 0.01])
def test_pauses_are_found(level: float, room: float) -> None:
    hiss = np.random.default_rng(1).normal(0, room, 6 * RATE)
    samples = ((speech(6.0, (2.0, 4.5)) + hiss) * level).astype(np.float32)
    pauses = Loudness.of(samples).pauses(0.4)
    np.testing.assert_allclose(pauses, [(1.75, 2.25), (4.25, 4.75)], atol=0.021)
    assert Loudness.of(samples).pauses(0.6) == []


def test_silence_around_the_words_is_measured() -> None:
    silence = np.zeros(RATE, dtype=np.float32)
    loudness = Loudness.of(np.concatenate([silence, speech(1.0), silence[: RATE // 2]]))
    assert loudness.lead_seconds == pytest.approx(1.0, abs=0.011)
    assert loudness.tail_seconds == pytest.approx(0.5, abs=0.011)
    assert loudness.speech == pytest.approx(20 * np.log10(0.1), abs=1.5)


@pytest.mark.parametrize("samples", [1, 239, 241, RATE])
def test_steady_sound_of_any_length_has_no_pause(samples: int) -> None:
    assert Loudness.of(np.full(samples, 0.3, dtype=np.float32)).pauses(0.02) == []
