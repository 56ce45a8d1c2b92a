"""What clients send and get, as the contract names it (API.md sections 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine import FRAME_MILLISECONDS, SpeechRequest

from ..errors import Unprocessable
from ..pool.engine_host import ResolvedVoice
from ..settings import Settings

_LONGEST_MS = 600_000
_Number = TypeVar("_Number", int, float)


class ErrorBody(BaseModel):
    """Every error: what is wrong and what to do, and a name for programs."""

    detail: str
    code: str


class VoiceStored(BaseModel):
    """The answer to an upload."""

    voice_id: str
    message: str


class VoiceDeleted(BaseModel):
    message: str


class VoiceDetails(BaseModel):
    """What is known of a voice. created: ISO 8601 in UTC. sha256: of the recording as it was uploaded."""

    id: str
    seconds: float
    has_transcript: bool
    preloaded: bool
    created: str
    sha256: str


@dataclass(frozen=True)
class SpeechJob:
    """A request that holds up to every rule but the engine's: what is to be said, and the id of who says it."""

    speech: SpeechRequest
    voice_id: str | None

    @property
    def permits(self) -> int:
        """How many slots it takes."""
        return 2 if self.speech.guidance > 0 else 1

    def cast(self, resolved: ResolvedVoice) -> SpeechRequest:
        return replace(self.speech, voice=resolved.voice, speaker=resolved.speaker)


class SpeechParameters(BaseModel):
    """The parameters of /tts/generate. What is left out is what the service's TTS_… settings say."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    text: str = Field(min_length=1, description="What to say; at most MAX_TEXT_LENGTH characters.")
    voice_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="A voice of GET /voices, or speaker_N; the default is speaker_0.",
    )
    format: str | None = Field(
        None, max_length=64, description="wav, mp3, fmp4, raw_pcm, webm, opus, flac or aac; overrides Accept."
    )
    synthesis_temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_k: int | None = Field(None, ge=1, le=2051)
    cfg_guidance_weight: float | None = Field(
        None, ge=0, le=3, description="Classifier-free guidance; above 0 the request takes two slots."
    )
    voice_exaggeration_factor: float | None = Field(None, ge=0, le=1, description="Expressiveness; 0.5 is neutral.")
    text_processing_chunk_size: int | None = Field(
        None, ge=20, le=1000, description="Most characters of one text chunk."
    )
    audio_tokens_per_slice: int | None = Field(
        None, ge=1, le=125, description="Frames of 80 ms in an emitted slice, once the stream runs."
    )
    remove_leading_milliseconds: int | None = Field(None, ge=0, le=_LONGEST_MS)
    remove_trailing_milliseconds: int | None = Field(None, ge=0, le=_LONGEST_MS)
    chunk_overlap_method: Literal["full", "zero"] | None = Field(
        None, description="full: codec and context run on through text chunks; zero: chunks are laid end to end."
    )
    chunk_overlap_strategy: Literal["full", "zero"] | None = Field(
        None, description="Another name of chunk_overlap_method."
    )
    crossfade_duration_milliseconds: int | None = Field(None, ge=0, le=500)
    max_audio_length_ms: int | None = Field(None, ge=FRAME_MILLISECONDS, le=_LONGEST_MS)
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="The same seed, request and voice give the same audio."
    )

    @field_validator("text")
    @classmethod
    def _something_to_say(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("it is empty: send at least one character to speak")
        return text

    @model_validator(mode="after")
    def _one_overlap(self) -> SpeechParameters:
        if self.chunk_overlap_method and self.chunk_overlap_strategy not in (None, self.chunk_overlap_method):
            raise ValueError("chunk_overlap_method and chunk_overlap_strategy are two names of one thing and differ")
        return self

    def job(self, settings: Settings) -> SpeechJob:
        """What to speak, with the defaults filled in. Raises Unprocessable if the text is too long."""
        if len(self.text) > settings.max_text_length:
            raise Unprocessable(
                f"text has {len(self.text)} characters, and at most {settings.max_text_length} are spoken at once: "
                "send it in parts, or raise MAX_TEXT_LENGTH",
                code="text_too_long",
            )
        longest = _given(self.max_audio_length_ms, settings.tts_max_audio_length_ms)
        slice_frames = _given(self.audio_tokens_per_slice, settings.tts_audio_tokens_per_slice)
        speech = SpeechRequest(
            text=self.text,
            temperature=_given(self.synthesis_temperature, settings.tts_synthesis_temperature),
            top_k=_given(self.top_k, settings.tts_top_k),
            guidance=_given(self.cfg_guidance_weight, settings.tts_cfg_guidance_weight),
            exaggeration=_given(self.voice_exaggeration_factor, settings.tts_voice_exaggeration_factor),
            seed=self.seed,
            max_frames=longest // FRAME_MILLISECONDS,
            chunk_characters=_given(self.text_processing_chunk_size, settings.tts_text_processing_chunk_size),
            slice_frames=slice_frames,
            first_slice_frames=min(settings.tts_first_slice_frames, slice_frames),
            overlap=self.chunk_overlap_method or self.chunk_overlap_strategy or settings.tts_chunk_overlap_strategy,
            crossfade_milliseconds=_given(
                self.crossfade_duration_milliseconds, settings.tts_crossfade_duration_milliseconds
            ),
            trim_start_milliseconds=_given(self.remove_leading_milliseconds, settings.tts_remove_leading_milliseconds),
            trim_end_milliseconds=_given(self.remove_trailing_milliseconds, settings.tts_remove_trailing_milliseconds),
        )
        return SpeechJob(speech, self.voice_id)


def _given(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value
