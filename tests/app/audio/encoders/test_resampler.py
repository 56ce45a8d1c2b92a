from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.encoders.resampler import Resampler
from engine import FRAME_SAMPLES, SAMPLE_RATE
from engine.types import Samples


def sine(hertz: float, seconds: float, rate: int = SAMPLE_RATE) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def resample(samples: Samples, rate: int, cuts: list[int]) -> Samples:
    resampler = Resampler(rate)
    return np.concatenate([*(resampler.push(each) for each in np.split(samples, cuts)), resampler.flush()])


def decibels(samples: Samples, reference: float = 0.5) -> float:
    middle = samples[samples.size // 4 : -samples.size // 4].astype(np.float64)
    return float(20 * np.log10(max(np.sqrt(2 * np.mean(middle**2)), 1e-9) / reference))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_speech_is_kept_where_it_was(rate: int) -> None:
    audio = sine(1_000, 1)
    resampled = resample(audio, rate, list(range(FRAME_SAMPLES, audio.size, FRAME_SAMPLES)))
    assert resampled.size == rate
    edge = rate // 20  # the filter sees silence beyond both ends
    assert np.abs(resampled - sine(1_000, 1, rate))[edge:-edge].max() < 1e-4


def test_a_telephone_hears_no_aliases() -> None:
    assert abs(decibels(resample(sine(3_600, 1), 8_000, []))) < 0.1
    assert decibels(resample(sine(4_300, 1), 8_000, [])) < -90
    assert decibels(resample(sine(7_000, 1), 8_000, [])) < -90


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_the_first_slice_is_held_back_by_milliseconds_only(rate: int) -> None:
    first = Resampler(rate).push(sine(440, FRAME_SAMPLES / SAMPLE_RATE))
    assert first.size >= (0.080 - 0.010) * rate


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(0, 6_000),
    rate=st.integers(8_000, 48_000),
    cuts=st.lists(st.integers(0, 6_000), max_size=6).map(sorted),
)
def test_the_length_is_exact_and_slices_do_not_matter(size: int, rate: int, cuts: list[int]) -> None:
    audio = sine(700, size / SAMPLE_RATE)
    resampled = resample(audio, rate, cuts)
    assert resampled.size == round(size * rate / SAMPLE_RATE)
    assert np.array_equal(resampled, resample(audio, rate, []))


@pytest.mark.parametrize("rate", [0, 7_999, 48_001])
def test_a_rate_out_of_range_is_rejected(rate: int) -> None:
    with pytest.raises(ValueError, match="8000 to 48000"):
        Resampler(rate)
