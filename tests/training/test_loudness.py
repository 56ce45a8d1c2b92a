"""Pause detection at different levels and noise floors."""

from __future__ import annotations

import numpy as np
import pytest

from training.loudness import Loudness

from .synthetic_audio import RATE, speech


@pytest.mark.parametrize("level", [1.0, 0.05])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_pauses_are_found(level: float, noise: float) -> None:
    hiss = np.random.default_rng(1).normal(0, noise, 6 * RATE)
    samples = ((speech(6.0, (2.0, 4.5)) + hiss) * level).astype(np.float32)
    pauses = Loudness.from_samples(samples).pauses(0.4)
    np.testing.assert_allclose(pauses, [(1.75, 2.25), (4.25, 4.75)], atol=0.021)
    assert Loudness.from_samples(samples).pauses(0.6) == []


def test_leading_and_trailing_silence_are_measured() -> None:
    silence = np.zeros(RATE, dtype=np.float32)
    loudness = Loudness.from_samples(np.concatenate([silence, speech(1.0), silence[: RATE // 2]]))
    assert loudness.leading_silence == pytest.approx(1.0, abs=0.011)
    assert loudness.trailing_silence == pytest.approx(0.5, abs=0.011)
    assert loudness.speech_level == pytest.approx(20 * np.log10(0.1), abs=1.5)


@pytest.mark.parametrize("samples", [1, 239, 241, RATE])
def test_steady_sound_has_no_pause(samples: int) -> None:
    assert Loudness.from_samples(np.full(samples, 0.3, dtype=np.float32)).pauses(0.02) == []
