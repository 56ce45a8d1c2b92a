"""Request and response bodies of the routes for clients of earlier CSM servers (API.md section 4)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from ..audio.postprocessing import resolve_watermark_key
from ..settings import Settings
from .parameters import AudioLength, RequestParameters
from .speech import SpeechJob, SpeechParameters, require_text

SpeakerId = Annotated[int, Field(ge=0, le=999, description="N of the voice speaker_N.")]
_KeyByte = Annotated[int, Field(ge=0, le=255)]


class TextParameters(RequestParameters):
    """One text, and a numbered speaker."""

    text: str = Field(min_length=1, description="The text to speak; at most MAX_TEXT_LENGTH characters.")
    speaker_id: SpeakerId = 0
    max_audio_length_ms: AudioLength | None = None
    watermark: bool | None = Field(None, description="Watermark the audio; the default is CSM_WATERMARK_ENABLED.")
    watermark_key: Annotated[list[_KeyByte], Field(min_length=5, max_length=5)] | None = Field(
        None, description="Key of five numbers to detect the watermark with; the default is CSM_WATERMARK_KEY."
    )

    @field_validator("text")
    @classmethod
    def _require_text(cls, text: str) -> str:
        return require_text(text)

    def to_job(self, settings: Settings, seed: int | None = None) -> SpeechJob:
        """The job. Raises Unprocessable if the text is too long."""
        return self._to_job(settings, seed=seed)

    def _to_job(
        self, settings: Settings, *, seed: int | None = None, temperature: float | None = None, top_k: int | None = None
    ) -> SpeechJob:
        return SpeechParameters.model_construct(
            text=self.text,
            voice_id=f"speaker_{self.speaker_id}",
            max_audio_length_ms=self.max_audio_length_ms,
            synthesis_temperature=temperature,
            top_k=top_k,
            seed=seed,
        ).to_job(settings)

    def resolve_watermark_key(self, settings: Settings) -> bytes | None:
        """The key of the watermark; None if the audio is not watermarked."""
        return resolve_watermark_key(
            settings, self.watermark, None if self.watermark_key is None else bytes(self.watermark_key)
        )


class GenerateParameters(TextParameters):
    """The body of /generate and /generate/wav."""

    temperature: float | None = Field(None, ge=0, le=2)
    topk: int | None = Field(None, ge=1, le=2051)

    def to_job(self, settings: Settings, seed: int | None = None) -> SpeechJob:
        return self._to_job(settings, seed=seed, temperature=self.temperature, top_k=self.topk)


class SpeakParameters(RequestParameters):
    """The body of /api/generate."""

    text: str = Field(min_length=1, description="The text to speak; at most MAX_TEXT_LENGTH characters.")
    voice: str = Field("speaker_0", min_length=1, max_length=128, description="A voice of GET /voices, or speaker_N.")
    speed: float = Field(1.0, ge=0.25, le=4, description="2 takes half the time; the pitch stays.")

    @field_validator("text")
    @classmethod
    def _require_text(cls, text: str) -> str:
        return require_text(text)

    def to_job(self, settings: Settings) -> SpeechJob:
        """The job. Raises Unprocessable if the text is too long."""
        return SpeechParameters.model_construct(text=self.text, voice_id=self.voice).to_job(settings)


class GeneratedAudio(BaseModel):
    """The response of /generate. audio_base64: a wav file."""

    audio_base64: str
    sample_rate: int
    duration_ms: float
    processing_time_ms: float
    watermarked: bool


class SpokenMetadata(BaseModel):
    model: str
    voice: str
    speaker: int | None
    streaming: bool


class SpokenAudio(BaseModel):
    """The response of /api/generate. audio_data: a wav file in base64. duration: seconds."""

    audio_data: str
    format: str
    sample_rate: int
    duration: float
    metadata: SpokenMetadata
