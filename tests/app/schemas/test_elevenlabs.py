from __future__ import annotations

import pytest

from app.errors import ServiceError, UnknownFormat, UnknownVoice
from app.schemas.elevenlabs import OUTPUT_FORMATS, ElevenLabsSpeech, VoiceSettings, output_format
from app.schemas.speech import SpeechParameters
from app.settings import Settings
from engine import SpeechRequest

SETTINGS = Settings(api_key="key", tts_voice_exaggeration_factor=0.4)  # type: ignore[arg-type]


def request_of(**body: object) -> SpeechRequest:
    speech = ElevenLabsSpeech.model_validate({"text": "Hi", **body})
    return speech.to_job(speech.text, "amy", speech.voice_settings, SETTINGS).request


def test_nothing_but_the_text_is_the_request_of_tts_generate() -> None:
    assert request_of() == SpeechParameters(text="Hi").to_job(SETTINGS).request
    neutral = {"stability": 0.5, "style": 0, "similarity_boost": 1, "use_speaker_boost": True, "speed": None}
    assert request_of(voice_settings=neutral) == request_of()


def test_voice_settings_change_temperature_and_exaggeration() -> None:
    temperatures = [request_of(voice_settings={"stability": each}).temperature for each in (0, 0.5, 1)]
    assert temperatures == pytest.approx([1.0, 0.8, 0.6])
    assert request_of(voice_settings={"style": 0.5}).exaggeration == pytest.approx(0.7)
    assert request_of(voice_settings={"style": 1}).exaggeration == 1
    hot = Settings(api_key="key", tts_synthesis_temperature=2)  # type: ignore[arg-type]
    job = ElevenLabsSpeech(text="Hi").to_job("Hi", "amy", VoiceSettings(stability=0), hot)
    assert job.request.temperature == 2  # the engine's limit


def test_seed_and_normalization_are_passed_on() -> None:
    assert request_of(seed=2**32 - 1).seed == 2**32 - 1
    assert [request_of(apply_text_normalization=each).normalize for each in ("on", "off", "auto")] == [
        True,
        False,
        True,
    ]


def test_output_formats_have_the_rate_in_their_name() -> None:
    for name in OUTPUT_FORMATS:
        assert output_format(name).sample_rate == int(name.split("_")[1])
    assert [output_format(name).name for name in ("pcm_16000", "ulaw_8000", "alaw_8000", "opus_48000_32")] == [
        *("raw_pcm", "mulaw", "alaw", "opus"),
    ]
    assert output_format(None).media_type == "audio/mpeg"
    for name in ("", "pcm", "pcm_16001", "MP3_44100_128"):
        with pytest.raises(UnknownFormat, match="output_format"):
            output_format(name)


@pytest.mark.parametrize(
    ("path", "elevenlabs"),
    [
        ("/v1/text-to-speech/amy", True),
        ("/v1/voices", True),
        ("/v1/voices/add", True),
        ("/v2/voices", True),
        ("/v1/user/subscription", True),
        ("/voices", False),
        ("/v1/audio/voices", False),
        ("/v1/models", False),
    ],
)
def test_errors_have_the_format_of_their_path(path: str, elevenlabs: bool) -> None:
    error: ServiceError = UnknownVoice("No.")
    body = error.body_at(path)
    assert body["code"] == "unknown_voice"
    assert body["detail"] == ({"status": "voice_not_found", "message": "No."} if elevenlabs else "No.")
    assert ("error" in body) == (path.startswith("/v1/") and not elevenlabs)
