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
def test_output_length_is_input_length_divided_by_speed(speed: float, size: int, piece: int) -> None:
    output = stretched(tone(2)[:size], speed, piece)
    assert output.size == round(size / speed)
    assert output.dtype == np.float32


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.3, 2.0, 4.0])
def test_the_pitch_is_unchanged(speed: float) -> None:
    output = stretched(tone(4), speed)
    middle = output[output.size // 4 : -output.size // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(middle.size)))
    assert abs(spectrum.argmax() * SAMPLE_RATE / middle.size - 220) < 5
    assert 0.5 < np.sqrt((middle**2).mean()) / np.sqrt((tone(1) ** 2).mean()) < 1.2


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.1, 2.0, 4.0])
def test_audio_is_returned_by_the_third_frame(speed: float) -> None:
    stretch = TimeStretch(speed)
    assert sum(stretch.push(tone(0.08)).size for _ in range(3)) > 0


@given(st.floats(0.25, 4))
def test_no_factor_exceeds_the_filters_range(speed: float) -> None:
    factors = split_speed(speed)
    assert all(0.5 - 1e-6 <= factor <= 2 + 1e-6 for factor in factors)
    assert np.prod(factors) == pytest.approx(speed)


@pytest.mark.parametrize("speed", [0, 0.2, 4.1, float("nan")])
def test_speeds_out_of_range_are_rejected(speed: float) -> None:
    with pytest.raises(ValueError, match=r"from 0\.25 to 4"):
        TimeStretch(speed)
