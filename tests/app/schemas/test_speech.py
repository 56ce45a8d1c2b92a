from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import Unprocessable
from app.schemas.speech import SpeechParameters
from app.settings import Settings

SETTINGS = Settings(api_key="key", tts_top_k=7, max_text_length=20)  # type: ignore[arg-type]


def test_omitted_parameters_come_from_the_settings() -> None:
    speech = SpeechParameters(text="Hi").to_job(SETTINGS).request
    assert (speech.top_k, speech.temperature, speech.chunk_characters) == (7, 0.8, 150)
    assert (speech.slice_frames, speech.first_slice_frames, speech.crossfade_milliseconds) == (5, 1, 30)
    assert (speech.max_frames, speech.overlap, speech.seed) == (7500, "full", None)


def test_given_parameters_override_the_settings() -> None:
    given_ = {
        "text": "Hi",
        "synthesis_temperature": 0,
        "top_k": 2051,
        "cfg_guidance_weight": 1.5,
        "voice_exaggeration_factor": 1,
        "text_processing_chunk_size": 20,
        "audio_tokens_per_slice": 9,
        "remove_leading_milliseconds": 1,
        "remove_trailing_milliseconds": 2,
        "chunk_overlap_method": "zero",
        "crossfade_duration_milliseconds": 3,
        "max_audio_length_ms": 239,
        "seed": 4,
    }
    job = SpeechParameters.model_validate(given_).to_job(SETTINGS)
    speech = job.request
    assert (speech.temperature, speech.top_k, speech.guidance, speech.exaggeration) == (0, 2051, 1.5, 1)
    assert (speech.chunk_characters, speech.slice_frames, speech.overlap) == (20, 9, "zero")
    assert (speech.trim_start_milliseconds, speech.trim_end_milliseconds, speech.crossfade_milliseconds) == (1, 2, 3)
    assert (speech.max_frames, speech.seed) == (2, 4)
    assert job.permits == 2


def test_the_alias_of_chunk_overlap_method() -> None:
    assert SpeechParameters(text="Hi", chunk_overlap_strategy="zero").to_job(SETTINGS).request.overlap == "zero"
    with pytest.raises(ValidationError, match="are aliases and must not differ"):
        SpeechParameters(text="Hi", chunk_overlap_strategy="zero", chunk_overlap_method="full")


def test_a_text_over_the_limit_is_rejected() -> None:
    SpeechParameters(text="x" * 20).to_job(SETTINGS)
    with pytest.raises(Unprocessable, match="21 characters; the limit is 20"):
        SpeechParameters(text="x" * 21).to_job(SETTINGS)


@pytest.mark.parametrize("text", ["", " \n\t", "\ud800"])
def test_a_blank_text_is_rejected(text: str) -> None:
    with pytest.raises(ValidationError):
        SpeechParameters(text=text)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {"text": st.text(min_size=1, max_size=20)},
        optional={
            name: st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.booleans())
            for name in SpeechParameters.model_fields
            if name not in ("text", "voice_id", "format")
        },
    )
)
def test_every_valid_request_is_valid_for_the_engine(parameters: dict[str, object]) -> None:
    try:
        valid = SpeechParameters.model_validate(parameters)
    except ValidationError:
        return
    try:
        valid.to_job(SETTINGS)
    except Unprocessable as error:
        if error.code != "no_words":
            raise


def test_the_text_is_normalised_unless_the_request_or_the_setting_says_no() -> None:
    off = SETTINGS.model_copy(update={"tts_normalize": "off"})
    text = "It costs $5."
    assert SpeechParameters(text=text).to_job(SETTINGS).request.text == "It costs five dollars."
    assert SpeechParameters(text=text, normalize=False).to_job(SETTINGS).request.text == text
    assert SpeechParameters(text=text).to_job(off).request.text == text
    assert SpeechParameters(text=text, normalize=True).to_job(off).request.text == "It costs five dollars."


def test_a_text_without_words_is_refused() -> None:
    with pytest.raises(Unprocessable, match="no words") as caught:
        SpeechParameters(text="\U0001f44d **").to_job(SETTINGS)
    assert caught.value.code == "no_words"
    assert SpeechParameters(text="**", normalize=False).to_job(SETTINGS).request.text == "**"
