from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.voices.loudness import MAX_PEAK, TARGET_LUFS, integrated_loudness, normalized
from app.voices.preparation import prepare
from app.voices.recording_decoder import DecodedRecording
from engine import FRAME_SAMPLES, SAMPLE_RATE
from engine.types import Samples


def speech(seconds: float = 4.0, seed: int = 1) -> Samples:
    """Syllables of a harmonic voice with short gaps, as a stand-in for speech: peaks near -6 dB of full scale."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * 140 * n * time) / n for n in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1) ** 0.5
    breath = np.random.default_rng(seed).standard_normal(time.size) * 1e-4
    sound = voice * syllables
    return np.asarray(0.5 * sound / np.abs(sound).max() + breath, np.float32)


def silence(seconds: float, level: float = 0.0) -> Samples:
    noise = np.random.default_rng(7).standard_normal(round(seconds * SAMPLE_RATE)) * level
    return noise.astype(np.float32)


def warnings_of(samples: Samples, clipped: float = 0.0) -> tuple[str, ...]:
    return prepare(DecodedRecording(samples, clipped)).warnings


def prompt_of(samples: Samples) -> Samples:
    return prepare(DecodedRecording(samples, 0.0)).samples


def test_the_meter_agrees_with_the_standard() -> None:
    """A tone of 997 Hz at full scale in one channel is -3.01 LUFS (ITU-R BS.1770, and EBU Tech 3341's first case)."""
    tone = np.sin(2 * np.pi * 997 * np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    assert integrated_loudness(tone) == pytest.approx(-3.01, abs=0.05)
    assert integrated_loudness(tone * 10 ** (-23 / 20)) == pytest.approx(-26.01, abs=0.05)
    assert integrated_loudness(tone * 1e-5) == -70


@pytest.mark.parametrize("size", [0, 480, 2399, 2400, 9599])
def test_what_is_too_short_to_be_measured_is_at_the_gate(size: int) -> None:
    assert integrated_loudness(np.full(size, 0.5, np.float32)) == -70


@pytest.mark.parametrize("decibels", [-75.0, -50.0, -20.0, 5.9])
def test_a_faint_recording_prompts_as_loudly_as_a_loud_one(decibels: float) -> None:
    faint = (speech() * 10 ** (decibels / 20)).astype(np.float32)
    prompt = prompt_of(faint)
    assert integrated_loudness(prompt) == pytest.approx(TARGET_LUFS, abs=0.2)
    assert np.abs(prompt - prompt_of(speech())).max() < 1e-3


def test_peaks_do_not_clip() -> None:
    clicks = (speech() * 0.02).astype(np.float32)
    clicks[::24_000] = 0.9
    prompt = normalized(clicks)
    assert np.abs(prompt).max() <= MAX_PEAK + 1e-6
    assert integrated_loudness(prompt) < TARGET_LUFS


def test_long_silence_at_both_ends_is_trimmed_and_reported() -> None:
    spoken = speech()
    for level in (0.0, 1e-4):
        prepared = prepare(DecodedRecording(np.concatenate([silence(2, level), spoken, silence(3, level)]), 0.0))
        assert prepared.seconds == 9
        assert len(spoken) - 2 * FRAME_SAMPLES <= prepared.samples.size <= len(spoken) + SAMPLE_RATE * 0.7
        assert [each.split(" s ")[0] for each in prepared.warnings] == ["it begins with 2.0", "it ends with 3.2"]
    assert prompt_of(spoken).size == spoken.size


def test_whole_frames_are_trimmed_from_the_start() -> None:
    spoken = speech()
    whole = prompt_of(np.concatenate([silence(1.0), spoken]))
    kept = np.flatnonzero(np.abs(whole) > 1e-3)[0] - np.flatnonzero(np.abs(prompt_of(spoken)) > 1e-3)[0]
    assert (SAMPLE_RATE - kept) % FRAME_SAMPLES == 0
    assert 0.2 * SAMPLE_RATE <= kept < 0.2 * SAMPLE_RATE + FRAME_SAMPLES


def test_a_long_pause_is_kept_and_reported() -> None:
    samples = np.concatenate([speech(2), silence(1.5), speech(2)])
    assert prompt_of(samples).size == samples.size
    (warning,) = warnings_of(samples)
    assert "pause of 1.7 s" in warning
    assert warnings_of(np.concatenate([speech(2), silence(0.7), speech(2)])) == ()


def test_a_short_word_keeps_a_second() -> None:
    samples = np.concatenate([silence(1), speech(0.15), silence(2)])
    assert prompt_of(samples).size >= SAMPLE_RATE


@pytest.mark.parametrize(("level", "noisy"), [(1e-4, False), (0.005, False), (0.05, True)])
def test_noise_is_reported(level: float, noisy: bool) -> None:
    samples = speech() + silence(4, level)
    assert any("it is noisy" in each for each in warnings_of(samples)) == noisy


def test_a_tone_is_not_noise_and_clipping_is_reported() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 220 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    assert warnings_of(tone) == ()
    (warning,) = warnings_of(tone, clipped=0.034)
    assert warning.startswith("it is clipped: 3.4% of its samples")
    assert warnings_of(tone, clipped=1e-4) == ()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 1.5), st.sampled_from([0.0, 1e-5, 1e-2, 0.3, 1.0])), min_size=1, max_size=6).filter(
        lambda parts: sum(part for part, _ in parts) >= 1 and any(a > 0.1 and b > 1e-3 for a, b in parts)
    )
)
def test_any_recording_is_prepared(parts: list[tuple[float, float]]) -> None:
    samples = np.concatenate([silence(seconds, level) for seconds, level in parts]).clip(-1, 1)
    if samples.std() < 1e-4:  # refused before, as silent
        return
    prepared = prepare(DecodedRecording(samples, 0.0))
    assert SAMPLE_RATE <= prepared.samples.size <= samples.size
    assert np.isfinite(prepared.samples).all()
    assert np.abs(prepared.samples).max() <= MAX_PEAK + 1e-6
