"""Speech for OpenAI's clients: API.md section 5."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..audio.encoders import FORMATS, Format, choose_format
from ..audio.postprocessing import key_for, with_effects
from ..errors import NotFound, UnknownVoice
from ..responses.sse import as_events
from ..responses.streaming import SpeechResponse
from ..schemas.legacy import with_words
from ..schemas.speech import ErrorBody, SpeechParameters
from ..state import AppState, StateDep

# OpenAI's own voices, in the order they came: the N-th is speaker_N, today and tomorrow.
OPENAI_VOICES = (
    *("alloy", "echo", "fable", "onyx", "nova", "shimmer"),
    *("ash", "coral", "sage", "ballad", "verse", "marin", "cedar"),
)
_FORMAT_NAMES = {"pcm": "raw_pcm"}  # what they call otherwise than we
_MODEL_SINCE = 1_741_824_000  # 2025-03-13, when CSM-1B was published
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 404, 413, 422, 429, 500, 503)
}

router = APIRouter(prefix="/v1", tags=["openai"], responses=_ERRORS)


class VoiceReference(BaseModel):
    """A voice as OpenAI's newer clients name one of their own."""

    id: str = Field(min_length=1, max_length=128)


class OpenAISpeech(BaseModel):
    """The body of /v1/audio/speech. What OpenAI knows beside this, such as `instructions`, changes nothing here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: str = Field("csm-1b", max_length=128, description="Any: one model speaks here.")
    input: str = Field(min_length=1, description="What to say; at most MAX_TEXT_LENGTH characters.")
    voice: Annotated[str, Field(min_length=1, max_length=128)] | VoiceReference = Field(
        "alloy", description="A voice of GET /v1/audio/voices: one of GET /voices, speaker_N, or a name of OpenAI's."
    )
    response_format: str = Field("mp3", max_length=64, description="mp3, opus, aac, flac, wav or pcm.")
    speed: float = Field(1.0, ge=0.25, le=4, description="2 takes half the time; the pitch stays.")
    stream_format: Literal["audio", "sse"] = "audio"

    @field_validator("input")
    @classmethod
    def _something_to_say(cls, text: str) -> str:
        return with_words(text)

    @property
    def voice_name(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id

    def format(self, service: AppState) -> Format:
        """How the audio leaves. Raises UnknownFormat."""
        audio = choose_format(_FORMAT_NAMES.get(self.response_format, self.response_format), None)
        audio = with_effects(audio, self.speed, key_for(service.settings))
        return as_events(audio, len(self.input)) if self.stream_format == "sse" else audio


class OpenAIVoice(BaseModel):
    id: str
    name: str


class OpenAIVoices(BaseModel):
    voices: list[OpenAIVoice]


class OpenAIModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = _MODEL_SINCE
    owned_by: str = "csm-serve"


class OpenAIModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenAIModel]


@router.post(
    "/audio/speech",
    status_code=200,
    response_class=SpeechResponse,
    responses={
        200: {
            "description": "The audio, streamed while it is spoken; with stream_format sse as events.",
            "content": {
                **{audio.media_type: {"schema": {"type": "string", "format": "binary"}} for audio in FORMATS.values()},
                "text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}},
            },
        }
    },
)
async def speech(body: OpenAISpeech, service: StateDep) -> SpeechResponse:
    """Speak a text, streamed."""
    audio = body.format(service)
    voice_id = await anyio.to_thread.run_sync(_voice_id, service, body.voice_name)
    job = SpeechParameters.model_construct(text=body.input, voice_id=voice_id).job(service.settings)
    return SpeechResponse(service.pool, job, audio)


@router.get("/audio/voices")
async def voices(service: StateDep) -> OpenAIVoices:
    """The voices there are: recordings first, then OpenAI's names."""
    ids = await anyio.to_thread.run_sync(service.voices.ids)
    names = [*ids, *(name for name in OPENAI_VOICES if name not in ids)]
    return OpenAIVoices(voices=[OpenAIVoice(id=name, name=name) for name in names])


@router.get("/models")
async def models(service: StateDep) -> OpenAIModels:
    """The one model that speaks here."""
    return OpenAIModels(data=[OpenAIModel(id=_model_id(service))])


@router.get("/models/{model_id:path}")
async def model(model_id: str, service: StateDep) -> OpenAIModel:
    """What is known of a model."""
    if model_id != _model_id(service):
        raise NotFound(f"there is no model {model_id[:60]!r} here, but {_model_id(service)!r}", code="model_not_found")
    return OpenAIModel(id=model_id)


def _voice_id(service: AppState, name: str) -> str:
    """A recording of that name wins over what OpenAI means by it. Blocks: call it in a thread."""
    if name.lower() not in OPENAI_VOICES:
        return name
    try:
        service.voices.get(name)
    except UnknownVoice:
        return f"speaker_{OPENAI_VOICES.index(name.lower())}"
    return name


def _model_id(service: AppState) -> str:
    engine = service.host.status().engine
    return "csm-1b" if engine in (None, "csm") else engine
