"""Pitch alignment keeps words and durations and puts whole pitch periods into frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine.fallback.pitch import median_pitch
from engine.types import FRAME_SAMPLES, SAMPLE_RATE
from models.csm_mini_recipe.pitch_alignment import align_to_frames


def buzz(hertz: float, seconds: float = 1.2) -> np.ndarray:
    """Pulses with decaying resonances, like voiced speech."""
    size = int(seconds * SAMPLE_RATE)
    pulses = np.zeros(size)
    pulses[(np.arange(0, seconds * hertz) / hertz * SAMPLE_RATE).astype(int)] = 1
    time = np.arange(400) / SAMPLE_RATE
    ringing = np.exp(-time * 300) * np.sin(2 * np.pi * 700 * time)
    wave = np.convolve(pulses, ringing)[:size]
    return (wave / np.abs(wave).max() * 12_000).astype(np.int16)


@pytest.mark.parametrize("hertz", [97.0, 131.0, 203.0, 246.0])
def test_every_frame_holds_whole_periods_at_the_same_phase(hertz: float) -> None:
    aligned = align_to_frames(buzz(hertz))
    frames = aligned[: aligned.size // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)[3:-3].astype(float)
    # frames of a steady tone are equal, so each starts at the same phase
    correlations = [np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)) for a, b in pairwise(frames)]
    assert min(correlations) > 0.95
    pitch = median_pitch((aligned / 32768).astype(np.float32), SAMPLE_RATE)
    assert pitch is not None
    assert abs(pitch - round(hertz / 12.5) * 12.5) < 2


def test_unvoiced_audio_in_whole_frames_is_unchanged() -> None:
    noise = (np.random.default_rng(0).normal(size=16 * FRAME_SAMPLES) * 3_000).astype(np.int16)
    aligned = align_to_frames(noise)
    assert aligned.size == noise.size
    assert np.corrcoef(aligned, noise)[0, 1] > 0.95
    silence = np.zeros(FRAME_SAMPLES, np.int16)
    np.testing.assert_array_equal(align_to_frames(silence), silence)


def test_words_start_at_frames() -> None:
    lengths = [2_600, 3_100, 1_200, 5_000]  # to the nearest whole frames: 1, 2, 1 and 3
    words = np.cumsum([0, *lengths])
    spoken = np.concatenate([np.full(length, level) for length, level in zip(lengths, (9, 3, 9, 3), strict=True)])
    noise = np.random.default_rng(1).normal(size=spoken.size) * 1_000 * spoken / 9
    aligned = align_to_frames(noise.astype(np.int16), words[:-1])
    assert aligned.size == 7 * FRAME_SAMPLES
    loud = [float(np.abs(frame).mean()) for frame in aligned.reshape(-1, FRAME_SAMPLES).astype(float)]
    assert [level > 500 for level in loud] == [True, False, False, True, False, False, False]


def test_words_get_the_requested_number_of_frames() -> None:
    spoken = np.concatenate([np.full(5_000, 9), np.full(3_000, 3)]) * 300
    noise = (np.random.default_rng(1).normal(size=8_000) * spoken / 3).clip(-32_000, 32_000).astype(np.int16)
    loud = np.abs(align_to_frames(noise, [0, 5_000], [2, 3]).astype(float)).reshape(5, FRAME_SAMPLES).mean(axis=1)
    assert [level > 500 for level in loud] == [True, True, False, False, False]
