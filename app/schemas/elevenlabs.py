"""ElevenLabs' request and response bodies (API.md section 11), and what its parameters mean for CSM."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..audio.encoders import Format
from ..audio.encoders.formats import format_at
from ..audio.postprocessing import resolve_watermark_key, with_effects
from ..errors import UnknownFormat, Unprocessable
from ..settings import Settings
from .parameters import RequestParameters
from .speech import SpeechJob, SpeechParameters, require_text

DEFAULT_OUTPUT_FORMAT = "mp3_44100_128"
OUTPUT_FORMATS = (
    *("mp3_22050_32", "mp3_24000_48", "mp3_44100_32", "mp3_44100_64", "mp3_44100_96"),
    *("mp3_44100_128", "mp3_44100_192"),
    *(f"pcm_{rate}" for rate in (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)),
    *(f"wav_{rate}" for rate in (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)),
    *("ulaw_8000", "alaw_8000"),
    *(f"opus_48000_{bit_rate}" for bit_rate in (32, 64, 96, 128, 192)),
)
MAX_SEED = 2**32 - 1
_FORMAT_NAMES = {"pcm": "raw_pcm", "ulaw": "mulaw"}  # the others have the same name here
_MAX_TEMPERATURE = 2.0


def output_format(name: str | None) -> Format:
    """The format of an `output_format`; its bit rate is the service's own. Raises UnknownFormat."""
    name = DEFAULT_OUTPUT_FORMAT if name is None else name
    if name not in OUTPUT_FORMATS:
        raise UnknownFormat(f"output_format {name[:40]!r} is unknown: use one of {', '.join(OUTPUT_FORMATS)}")
    kind, rate = name.split("_")[:2]
    return format_at(_FORMAT_NAMES.get(kind, kind), int(rate))


class VoiceSettings(RequestParameters):
    """similarity_boost and use_speaker_boost are ignored: the model is always prompted with the whole recording."""

    model_config = ConfigDict(extra="ignore")

    stability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Lowers the temperature: 0.5 is the default one, 0 a quarter more, 1 a quarter less.",
    )
    style: float | None = Field(None, ge=0, le=1, description="Raises voice_exaggeration_factor from its default to 1.")
    speed: float | None = Field(None, ge=0.25, le=4, description="2 takes half the time; the pitch stays.")


class SpeechOptions(RequestParameters):
    """What the bodies of the HTTP routes and the query of the WebSocket share. Harmless fields are ignored.

    A field that would change who speaks or what is said, and that is not supported, is refused by its name.
    """

    model_config = ConfigDict(extra="ignore")

    model_id: str | None = Field(None, max_length=128, description="Ignored: the service has one model.")
    language_code: str | None = Field(None, max_length=35, description="en, or leave it out.")
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="The same seed, request and voice give the same audio."
    )
    apply_text_normalization: Literal["auto", "on", "off"] | None = Field(None, description="auto is TTS_NORMALIZE.")
    apply_language_text_normalization: bool | None = Field(None, description="true is refused.")

    @field_validator("language_code")
    @classmethod
    def _check_language(cls, language: str | None) -> str | None:
        if language and language.lower().replace("_", "-").split("-")[0] not in ("en", "eng"):
            raise ValueError("no language but en can be chosen: leave it out to have the text spoken as it is")
        return language

    @field_validator("apply_language_text_normalization")
    @classmethod
    def _check_language_normalization(cls, wanted: bool | None) -> bool | None:
        if wanted:
            raise ValueError("it is not supported: leave it out, and write the text as it is to be said")
        return wanted

    def to_job(self, text: str, voice_id: str, voice: VoiceSettings | None, settings: Settings) -> SpeechJob:
        """The job of a text. Raises Unprocessable if the text is too long."""
        options = self.synthesis(voice, settings)
        return SpeechParameters.model_construct(text=text, voice_id=voice_id, **options).to_job(settings)

    def synthesis(self, voice: VoiceSettings | None, settings: Settings) -> dict[str, Any]:
        """The options as SynthesisParameters."""
        temperature = exaggeration = None
        if voice is not None and voice.stability is not None:
            scale = 1.25 - 0.5 * voice.stability
            temperature = min(_MAX_TEMPERATURE, settings.tts_synthesis_temperature * scale)
        if voice is not None and voice.style is not None:
            neutral = settings.tts_voice_exaggeration_factor
            exaggeration = neutral + (1 - neutral) * voice.style
        return {
            "seed": self.seed,
            "normalize": {"on": True, "off": False}.get(self.apply_text_normalization or "auto"),
            "synthesis_temperature": temperature,
            "voice_exaggeration_factor": exaggeration,
        }


class StreamOptions(SpeechOptions):
    """The query of the WebSockets.

    auto_mode: each message is spoken at once, as if it were flushed. sync_alignment: also send when each character is
    said; left out, connections of several texts do too, as their clients expect.
    """

    output_format: str = Field(DEFAULT_OUTPUT_FORMAT, max_length=64)
    sync_alignment: bool | None = None
    auto_mode: bool = False
    inactivity_timeout: int = Field(20, description="Seconds; used as from 1 to 180, and by connections of several.")

    @property
    def inactivity_seconds(self) -> int:
        return min(max(self.inactivity_timeout, 1), 180)


def refuse_dictionaries(locators: list[Any] | None) -> list[Any] | None:
    """The locators if there are none. Raises ValueError: what they replace would be said otherwise."""
    if locators:
        raise ValueError("pronunciation dictionaries are not supported: use LEXICON, or lexicon on POST /tts/generate")
    return locators


class BodyOptions(SpeechOptions):
    """What the bodies of the HTTP routes hold besides."""

    pronunciation_dictionary_locators: list[Any] | None = Field(None, description="Refused unless empty.")
    audio_effects: dict[str, Any] | None = Field(None, description="Refused unless empty.")

    @field_validator("pronunciation_dictionary_locators")
    @classmethod
    def _check_dictionaries(cls, locators: list[Any] | None) -> list[Any] | None:
        return refuse_dictionaries(locators)

    @field_validator("audio_effects")
    @classmethod
    def _check_effects(cls, effects: dict[str, Any] | None) -> dict[str, Any] | None:
        if effects:
            raise ValueError("audio effects are not supported: leave it out")
        return effects


class ElevenLabsSpeech(BodyOptions):
    """The body of /v1/text-to-speech/{voice_id}. Its context fields (`previous_text`, `next_text`) are ignored."""

    text: str = Field(min_length=1, description="The text to speak; at most MAX_TEXT_LENGTH characters.")
    voice_settings: VoiceSettings | None = None

    @field_validator("text")
    @classmethod
    def _require_text(cls, text: str) -> str:
        return require_text(text)


def encoded_format(name: str | None, voice: VoiceSettings | None, settings: Settings) -> Format:
    """The format of a response, speed and watermark included. Raises UnknownFormat."""
    return with_effects(output_format(name), speed_of(voice), resolve_watermark_key(settings))


def speed_of(voice: VoiceSettings | None) -> float:
    return 1.0 if voice is None or voice.speed is None else voice.speed


# ---- responses


class ElevenLabsVoice(BaseModel):
    """voice_id: of GET /voices, or speaker_N. category: cloned (uploaded), premade (preloaded or built in)."""

    voice_id: str
    name: str
    category: Literal["cloned", "premade"]
    labels: dict[str, str] = Field(default_factory=dict)
    description: str | None = None
    preview_url: str | None = None
    is_owner: bool
    created_at_unix: int | None = None


class ElevenLabsVoices(BaseModel):
    voices: list[ElevenLabsVoice]


class ElevenLabsVoicePage(ElevenLabsVoices):
    has_more: bool
    total_count: int
    next_page_token: str | None = None


class ElevenLabsVoiceStored(BaseModel):
    """Beyond ElevenLabs' API: joined, the files that the voice is made of if there are several; warnings."""

    voice_id: str
    requires_verification: bool = False
    joined: list[str] = []
    warnings: list[str]


class ElevenLabsVoiceDeleted(BaseModel):
    status: Literal["ok"] = "ok"


class ElevenLabsLanguage(BaseModel):
    language_id: str
    name: str


class ElevenLabsModel(BaseModel):
    model_id: str
    name: str
    description: str = "Speech in the voice of a recording"
    can_be_finetuned: bool = False
    can_do_text_to_speech: bool = True
    can_do_voice_conversion: bool = False
    can_use_style: bool = True
    can_use_speaker_boost: bool = False
    serves_pro_voices: bool = False
    token_cost_factor: float = 0.0
    requires_alpha_access: bool = False
    max_characters_request_free_user: int
    max_characters_request_subscribed_user: int
    maximum_text_length_per_request: int
    languages: list[ElevenLabsLanguage] = [ElevenLabsLanguage(language_id="en", name="English")]


class ElevenLabsPrice(BaseModel):
    amount: str = "0"
    currency: str = "usd"


class ElevenLabsSubscription(BaseModel):
    """Nothing is billed or counted: the limits are the largest numbers that every client can hold."""

    tier: str = "self_hosted"
    status: str = "active"
    character_count: int = 0
    character_limit: int = 2**31 - 1
    max_credit_limit_extension: int = 0
    can_extend_character_limit: bool = False
    allowed_to_extend_character_limit: bool = False
    voice_slots_used: int
    professional_voice_slots_used: int = 0
    professional_voice_slots_used_in_workspace: int = 0
    voice_limit: int = 2**31 - 1
    voice_add_edit_counter: int = 0
    professional_voice_limit: int = 0
    can_extend_voice_limit: bool = False
    can_use_instant_voice_cloning: bool = True
    can_use_professional_voice_cloning: bool = False
    current_overage: ElevenLabsPrice = ElevenLabsPrice()


def parse_flag(name: str, value: str) -> bool:
    """A boolean of a form. Raises Unprocessable."""
    if value.lower() not in ("true", "false", "1", "0", ""):
        raise Unprocessable(f"{name}: it must be true or false, not {value[:60]!r}", code="invalid_parameter")
    return value.lower() in ("true", "1")
