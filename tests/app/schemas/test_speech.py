from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import Unprocessable
from app.schemas.legacy import GenerateParameters, TextParameters
from app.schemas.speech import SpeechBody, SpeechParameters
from app.settings import Settings
from engine import Lexicon

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
    valid.to_job(SETTINGS)


def test_the_text_is_normalised_unless_the_request_or_the_setting_says_no() -> None:
    off = SETTINGS.model_copy(update={"tts_normalize": "off"})
    text = "It costs $5."
    assert SpeechParameters(text=text).to_job(SETTINGS).request.normalize
    assert not SpeechParameters(text=text, normalize=False).to_job(SETTINGS).request.normalize
    assert not SpeechParameters(text=text).to_job(off).request.normalize
    assert SpeechParameters(text=text, normalize=True).to_job(off).request.normalize


@pytest.mark.parametrize("parameters", [SpeechParameters, TextParameters, GenerateParameters])
def test_the_length_of_the_audio_is_limited_unless_it_is_0(parameters: type[SpeechParameters]) -> None:
    def frames(milliseconds: int | None, settings: Settings = SETTINGS) -> int | None:
        return parameters(text="Hi", max_audio_length_ms=milliseconds).to_job(settings).request.max_frames

    assert (frames(0), frames(80), frames(600_000)) == (None, 1, 7500)
    assert frames(None, SETTINGS.model_copy(update={"tts_max_audio_length_ms": 0})) is None
    for outside in (-1, 1, 79, 600_001):
        with pytest.raises(ValidationError):
            frames(outside)


def test_a_body_may_hold_a_lexicon() -> None:
    lexicon = SpeechBody(text="Hi", lexicon={"csm": "C S M"}).to_job(SETTINGS).request.lexicon
    assert lexicon == Lexicon({"csm": "C S M"})
    with pytest.raises(Unprocessable, match="'!' cannot be replaced"):
        SpeechBody(text="Hi", lexicon={"!": "bang"}).to_job(SETTINGS)
    with pytest.raises(ValidationError, match="1000 items"):
        SpeechBody(text="Hi", lexicon={f"w{n}": "x" for n in range(1001)})
