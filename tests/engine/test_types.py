"""Validation of requests, voice prompts and engine configuration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import EngineConfig, InvalidRequest, Speech, SpeechRequest, VoicePrompt

BOUNDS = [
    ("speaker", 0, 999),
    ("temperature", 0.0, 2.0),
    ("top_k", 1, 1_000_000),
    ("guidance", 0.0, 3.0),
    ("exaggeration", 0.0, 1.0),
    ("chunk_characters", 20, 1000),
    ("slice_frames", 1, 125),
    ("first_slice_frames", 1, 125),
    ("crossfade_milliseconds", 0, 500),
]


def request(**values: object) -> SpeechRequest:
    return SpeechRequest(**{"text": "hello", **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "low", "high"), BOUNDS)
def test_range_limits_are_accepted(name: str, low: float, high: float) -> None:
    assert getattr(request(**{name: low}), name) == low
    assert getattr(request(**{name: high}), name) == high


@pytest.mark.parametrize(("name", "low", "high"), BOUNDS)
@given(data=st.data())
def test_values_out_of_range_are_rejected_with_name_value_and_range(
    name: str, low: float, high: float, data: st.DataObject
) -> None:
    outside = data.draw(
        st.integers(max_value=int(low) - 1)
        | st.integers(min_value=int(high) + 1)
        | st.floats(max_value=low, exclude_max=True)
        | st.floats(min_value=high, exclude_min=True)
        | st.just(float("nan"))
    )
    with pytest.raises(InvalidRequest) as caught:
        request(**{name: outside})
    assert f"{name} must be from {low} to {high}, not {outside}" == str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": " \n\t"}, "text is empty"),
        ({"max_frames": 0}, "max_frames must be at least 1, not 0"),
        ({"ignore_stop": True}, "ignore_stop needs max_frames"),
        ({"trim_start_milliseconds": -1}, "must not be negative"),
        ({"trim_end_milliseconds": -1}, "must not be negative"),
        ({"overlap": "half"}, "overlap must be 'full' or 'zero', not 'half'"),
    ],
)
def test_invalid_requests_are_rejected(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        request(**values)


def test_channels_are_averaged() -> None:
    stereo = np.array([[0.0, 1.0], [0.5, -0.5]])
    voice = VoicePrompt(stereo, sample_rate=8000)  # type: ignore[arg-type]  # float64 is accepted as well
    assert voice.samples.tolist() == [0.5, 0.0]
    assert voice.samples.dtype == np.float32
    assert voice.seconds == 2 / 8000


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0), 24_000, "at least one sample"),
        (np.zeros((2, 2, 2)), 24_000, "at least one sample"),
        (np.float32(1), 24_000, "at least one sample"),
        (np.array([0, np.nan]), 24_000, "not finite"),
        (np.array([0, np.inf]), 24_000, "not finite"),
        (np.zeros(4), 0, "sample_rate must be above 0 Hz, not 0"),
        (np.zeros(4), -1, "sample_rate must be above 0 Hz, not -1"),
    ],
)
def test_invalid_recordings_are_rejected(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        VoicePrompt(samples, sample_rate=rate)


prompts = st.builds(
    lambda values, transcript, rate, speaker: VoicePrompt(np.array(values, np.float32), transcript, rate, speaker),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=3),
    st.sampled_from(["", "hello", "1", "\0"]),
    st.sampled_from([1, 11, 24_000]),
    st.sampled_from([None, 1, 11]),
)


@given(prompts, prompts)
def test_keys_are_equal_exactly_for_equal_content(one: VoicePrompt, other: VoicePrompt) -> None:
    same = (
        np.array_equal(one.samples, other.samples)
        and one.transcript == other.transcript
        and one.sample_rate == other.sample_rate
        and one.speaker == other.speaker
    )
    assert (one.key == other.key) == same


def test_speech_has_its_duration_in_seconds() -> None:
    assert Speech(np.zeros(36_000, np.float32), np.zeros((19, 0), np.int64)).seconds == 1.5


@pytest.mark.parametrize(("name", "value"), [("slots", -1), ("audio_queue_slices", 0)])
def test_slots_and_audio_queue_slices_have_a_minimum(name: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"{name} must be at least 1.*, not {value}"):
        EngineConfig(model="x", **{name: value})  # type: ignore[arg-type]
