from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.time_stretch import TimeStretch, split_speed
from engine import SAMPLE_RATE

Samples = npt.NDArray[np.float32]


def tone(seconds: float, hertz: float = 220.0) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def stretched(samples: Samples, speed: float, piece: int = 1920) -> Samples:
    stretch = TimeStretch(speed)
    parts = [stretch.push(samples[start : start + piece]) for start in range(0, samples.size, piece)]
    return np.concatenate([*parts, stretch.flush()])


@settings(max_examples=25, deadline=None)
@given(st.floats(0.25, 4), st.integers(0, 40_000), st.sampled_from([500, 1920, 9600]))
def test_it_is_as_long_as_the_speed_says(speed: float, size: int, piece: int) -> None:
    out = stretched(tone(2)[:size], speed, piece)
    assert out.size == round(size / speed)
    assert out.dtype == np.float32


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.3, 2.0, 4.0])
def test_the_pitch_stays(speed: float) -> None:
    out = stretched(tone(4), speed)
    middle = out[out.size // 4 : -out.size // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(middle.size)))
    assert abs(spectrum.argmax() * SAMPLE_RATE / middle.size - 220) < 5
    assert 0.5 < np.sqrt((middle**2).mean()) / np.sqrt((tone(1) ** 2).mean()) < 1.2


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.1, 2.0, 4.0])
def test_audio_comes_with_the_third_frame(speed: float) -> None:
    stretch = TimeStretch(speed)
    assert sum(stretch.push(tone(0.08)).size for _ in range(3)) > 0


@given(st.floats(0.25, 4))
def test_no_step_is_too_large(speed: float) -> None:
    steps = split_speed(speed)
    assert all(0.5 - 1e-6 <= step <= 2 + 1e-6 for step in steps)
    assert np.prod(steps) == pytest.approx(speed)


@pytest.mark.parametrize("speed", [0, 0.2, 4.1, float("nan")])
def test_other_speeds_are_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"from 0\.25 to 4"):
        TimeStretch(speed)
