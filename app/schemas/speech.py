"""Parameters of /tts/generate (API.md section 1), and their conversion to a request for the engine.

RequestParameters
├── TextParameters           who says what
├── SynthesisParameters      how it is said and sent
│   └── SpeechParameters     with TextParameters: a query
│       └── SpeechBody       with LexiconParameters: a JSON body
└── LexiconParameters
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from engine import FRAME_MILLISECONDS, DialogueTurn, InvalidRequest, Lexicon, SpeechRequest

from ..audio.encoders.formats import FORMATS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from ..errors import Unprocessable
from ..settings import Settings
from .parameters import MAX_MILLISECONDS, AudioLength, RequestParameters
from .reference import ReferenceRecording

MAX_LEXICON_ENTRIES = 1000  # of one request
SampleRate = Annotated[int, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE)]
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class SpeechJob:
    """A validated speech request whose voice is still an id: the worker that generates it resolves the voice.

    voice_id: None is the default voice, unless the request has a voice.
    turn_voices: of a dialogue, the voice of each turn of the request; else none.
    reference: a recording that came with the request; the worker that received it makes it the request's voice.
    resumed: its speech has begun, at a worker that died: it goes before new ones.
    key, weight: name and weight of the API key, which share the slots fairly; "" for none.
    traceparent: of the request's trace, as W3C Trace Context writes it; "" without one.
    """

    request: SpeechRequest
    voice_id: str | None
    reference: ReferenceRecording | None = None
    resumed: bool = False
    key: str = ""
    weight: float = 1.0
    traceparent: str = ""
    turn_voices: tuple[str, ...] = ()

    def with_timestamps(self) -> SpeechJob:
        """The same job, which also tells when each word is said."""
        return replace(self, request=replace(self.request, timestamps=True))

    @property
    def voice_name(self) -> str:
        """For logs."""
        if self.reference is not None or self.request.voice is not None:
            return "reference"
        if self.turn_voices:
            return ", ".join(dict.fromkeys(self.turn_voices))
        return self.voice_id or "default"

    @property
    def permits(self) -> int:
        """Number of engine slots: classifier-free guidance takes two."""
        return 2 if self.request.guidance > 0 else 1


def require_text(text: str) -> str:
    """The text unchanged. Raises ValueError if it is blank."""
    if not text.strip():
        raise ValueError("it is empty: send at least one character to speak")
    return text


class TextParameters(RequestParameters):
    """Who says what."""

    text: str = Field(min_length=1, description="The text to speak; at most MAX_TEXT_LENGTH characters.")
    voice_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="A voice of GET /voices, or speaker_N; the default is speaker_0.",
    )

    @field_validator("text")
    @classmethod
    def _require_text(cls, text: str) -> str:
        return require_text(text)


class SynthesisParameters(RequestParameters):
    """How it is said and sent. Omitted parameters default to the TTS_… settings."""

    format: str | None = Field(None, max_length=64, description=f"{', '.join(FORMATS)}; overrides Accept.")
    sample_rate: SampleRate | None = Field(
        None, description="In Hz; the default is 24000, and 8000 for mulaw, alaw, wav_mulaw and wav_alaw."
    )
    synthesis_temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_k: int | None = Field(None, ge=1, le=2051)
    cfg_guidance_weight: float | None = Field(
        None, ge=0, le=3, description="Classifier-free guidance; above 0 the request takes two slots."
    )
    voice_exaggeration_factor: float | None = Field(None, ge=0, le=1, description="Expressiveness; 0.5 is neutral.")
    text_processing_chunk_size: int | None = Field(
        None, ge=20, le=1000, description="Maximum characters of one text chunk."
    )
    audio_tokens_per_slice: int | None = Field(
        None, ge=1, le=125, description="Frames of 80 ms per emitted slice; the first slices are smaller."
    )
    remove_leading_milliseconds: int | None = Field(None, ge=0, le=MAX_MILLISECONDS)
    remove_trailing_milliseconds: int | None = Field(None, ge=0, le=MAX_MILLISECONDS)
    chunk_overlap_method: Literal["full", "zero"] | None = Field(
        None,
        description="full: codec and context carry on across text chunks; zero: independent chunks are concatenated.",
    )
    chunk_overlap_strategy: Literal["full", "zero"] | None = Field(
        None, description="An alias of chunk_overlap_method."
    )
    crossfade_duration_milliseconds: int | None = Field(None, ge=0, le=500)
    normalize: bool | None = Field(
        None,
        description="Normalise the text (numbers, dates, abbreviations, Markdown; English); default TTS_NORMALIZE.",
    )
    max_audio_length_ms: AudioLength | None = None
    subtitles: Literal["srt", "vtt"] | None = Field(
        None, description="Answer with the subtitles of the speech in place of its audio."
    )
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="The same seed, request and voice give the same audio."
    )

    @model_validator(mode="after")
    def _check_overlap_aliases(self) -> SynthesisParameters:
        if self.chunk_overlap_method and self.chunk_overlap_strategy not in (None, self.chunk_overlap_method):
            raise ValueError("chunk_overlap_method and chunk_overlap_strategy are aliases and must not differ")
        return self

    def make_request(self, settings: Settings, text: str = "", turns: tuple[DialogueTurn, ...] = ()) -> SpeechRequest:
        """The request to say a text or a dialogue, with defaults from the settings. Its voices are still missing."""
        max_milliseconds = _default(self.max_audio_length_ms, settings.tts_max_audio_length_ms)
        slice_frames = _default(self.audio_tokens_per_slice, settings.tts_audio_tokens_per_slice)
        return SpeechRequest(
            text=text,
            turns=turns,
            normalize=settings.tts_normalize == "on" if self.normalize is None else self.normalize,
            lexicon=self._make_lexicon(),
            temperature=_default(self.synthesis_temperature, settings.tts_synthesis_temperature),
            top_k=_default(self.top_k, settings.tts_top_k),
            guidance=_default(self.cfg_guidance_weight, settings.tts_cfg_guidance_weight),
            exaggeration=_default(self.voice_exaggeration_factor, settings.tts_voice_exaggeration_factor),
            seed=self.seed,
            max_frames=max_milliseconds // FRAME_MILLISECONDS or None,
            chunk_characters=_default(self.text_processing_chunk_size, settings.tts_text_processing_chunk_size),
            slice_frames=slice_frames,
            first_slice_frames=min(settings.tts_first_slice_frames, slice_frames),
            overlap=self.chunk_overlap_method or self.chunk_overlap_strategy or settings.tts_chunk_overlap_strategy,
            crossfade_milliseconds=_default(
                self.crossfade_duration_milliseconds, settings.tts_crossfade_duration_milliseconds
            ),
            trim_start_milliseconds=_default(
                self.remove_leading_milliseconds, settings.tts_remove_leading_milliseconds
            ),
            trim_end_milliseconds=_default(
                self.remove_trailing_milliseconds, settings.tts_remove_trailing_milliseconds
            ),
        )

    def _make_lexicon(self) -> Lexicon | None:
        return None


def check_length(characters: int, settings: Settings) -> None:
    """Raises Unprocessable if a text of so many characters is too long."""
    if characters > settings.max_text_length:
        raise Unprocessable(
            f"text has {characters} characters; the limit is {settings.max_text_length}: "
            "send it in parts, or raise MAX_TEXT_LENGTH",
            code="text_too_long",
        )


class SpeechParameters(SynthesisParameters, TextParameters):
    """The parameters of /tts/generate."""

    def to_job(self, settings: Settings) -> SpeechJob:
        """The job, with defaults from the settings. Raises Unprocessable if the text is too long.

        The text itself is read, and refused if need be, by the engine.
        """
        check_length(len(self.text), settings)
        return SpeechJob(self.make_request(settings, self.text), self.voice_id, self._get_reference())

    def _get_reference(self) -> ReferenceRecording | None:
        return None


class LexiconParameters(RequestParameters):
    """What only a JSON body can hold beside the other parameters."""

    lexicon: dict[str, str] | None = Field(
        None,
        max_length=MAX_LEXICON_ENTRIES,
        description="Words and what is said in their place; an entry in lower case stands for any case.",
    )

    def _make_lexicon(self) -> Lexicon | None:
        try:
            return Lexicon(self.lexicon) if self.lexicon else None
        except InvalidRequest as error:
            raise Unprocessable(str(error), code="invalid_parameter") from None


class SpeechBody(LexiconParameters, SpeechParameters):
    """The parameters as JSON, which may hold a lexicon and the recording of a voice."""

    reference: ReferenceRecording | None = Field(
        None, description="A one-off voice, in place of voice_id: never listed, nor kept on disk."
    )

    @model_validator(mode="after")
    def _check_one_voice(self) -> SpeechBody:
        if self.reference is not None and self.voice_id is not None:
            raise ValueError("voice_id and reference are two voices: send one of them")
        return self

    def _get_reference(self) -> ReferenceRecording | None:
        return self.reference


def _default(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value
