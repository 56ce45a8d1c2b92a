"""OpenAI-compatible routes (API.md section 5)."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Header
from pydantic import BaseModel

from ..audio.encoders import FORMATS, Format, choose_format
from ..audio.postprocessing import resolve_watermark_key, with_effects
from ..audio.timeline import Timeline
from ..errors import NotFound
from ..responses.sse import as_events
from ..responses.streaming import SpeechResponse
from ..schemas.elevenlabs import ElevenLabsModel
from ..schemas.errors import SPEECH_ERRORS, error_responses
from ..schemas.openai_speech import OpenAISpeech
from ..schemas.speech import SpeechBody
from ..settings import Settings
from ..state import AppState, StateDep
from ..voices.openai_voices import OPENAI_VOICES, resolve_voice_id
from ..voices.voice_id import stem_of

_FORMAT_ALIASES = {"pcm": "raw_pcm"}
_MODEL_CREATED = 1_741_824_000  # 2025-03-13, when CSM-1B was published

router = APIRouter(prefix="/v1", tags=["openai"], responses=error_responses(*SPEECH_ERRORS))


def _audio_format(body: OpenAISpeech, settings: Settings) -> Format:
    """The format of the response, effects and events included. Raises UnknownFormat."""
    audio_format = choose_format(
        _FORMAT_ALIASES.get(body.response_format, body.response_format), None, body.sample_rate
    )
    audio_format = with_effects(audio_format, body.speed, resolve_watermark_key(settings))
    return as_events(audio_format, len(body.input)) if body.stream_format == "sse" else audio_format


class OpenAIVoice(BaseModel):
    """id: of GET /voices. name: without the file's extension where that is clear; `voice` accepts both."""

    id: str
    name: str


class OpenAIVoices(BaseModel):
    """voices and data are the same list: clients read one or the other."""

    object: Literal["list"] = "list"
    voices: list[OpenAIVoice]
    data: list[OpenAIVoice]


class OpenAIModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = _MODEL_CREATED
    owned_by: str = "csm-serve"


class OpenAIModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class AudioModels(OpenAIModels):
    """models: the same as data, under the name that Open WebUI reads."""

    models: list[OpenAIModel]


@router.post(
    "/audio/speech",
    status_code=200,
    response_class=SpeechResponse,
    responses={
        **error_responses(415),
        200: {
            "description": "The audio, streamed while it is generated; as events if stream_format is sse.",
            "content": {
                **{audio.media_type: {"schema": {"type": "string", "format": "binary"}} for audio in FORMATS.values()},
                "text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}},
            },
        },
    },
)
async def speech(body: OpenAISpeech, state: StateDep) -> SpeechResponse:
    """Generate the speech of a text, streamed."""
    audio_format, reference, voice_id = _audio_format(body, state.settings), body.reference, None
    if reference is None:
        voice_id = await anyio.to_thread.run_sync(resolve_voice_id, state.voices, body.voice_name)
    parameters = SpeechBody.model_construct(text=body.input, voice_id=voice_id, reference=reference)
    job = await state.references.resolve(parameters.to_job(state.settings))
    if body.timestamps:
        return SpeechResponse(state.pool, job.with_timestamps(), audio_format, Timeline(body.input, body.speed))
    return SpeechResponse(state.pool, job, audio_format)


@router.get("/audio/voices")
async def voices(state: StateDep) -> OpenAIVoices:
    """All voices: recordings first, then OpenAI's names."""
    ids = await anyio.to_thread.run_sync(state.voices.ids)
    stems = Counter(stem_of(voice_id) for voice_id in ids)
    listed = [OpenAIVoice(id=each, name=stem_of(each) if stems[stem_of(each)] == 1 else each) for each in ids]
    taken = {*ids, *stems}
    listed += [OpenAIVoice(id=name, name=name) for name in OPENAI_VOICES if name not in taken]
    return OpenAIVoices(voices=listed, data=listed)


@router.get("/models")
async def models(
    state: StateDep, xi_api_key: Annotated[str | None, Header(description="ElevenLabs' clients send it.")] = None
) -> OpenAIModels | list[ElevenLabsModel]:
    """The service's one model; as ElevenLabs lists it where the key is in `xi-api-key`."""
    if xi_api_key is not None:
        name, limit = _model_id(state), state.settings.max_text_length
        return [
            ElevenLabsModel(
                model_id=name,
                name=name,
                max_characters_request_free_user=limit,
                max_characters_request_subscribed_user=limit,
                maximum_text_length_per_request=limit,
            )
        ]
    return OpenAIModels(data=[OpenAIModel(id=_model_id(state))])


@router.get("/audio/models")
async def audio_models(state: StateDep) -> AudioModels:
    """The same list, for clients that ask for models of speech."""
    data = [OpenAIModel(id=_model_id(state))]
    return AudioModels(data=data, models=data)


@router.get("/models/{model_id:path}")
async def model(model_id: str, state: StateDep) -> OpenAIModel:
    """Details of a model."""
    if model_id != _model_id(state):
        raise NotFound(
            f"model {model_id[:60]!r} does not exist: the only model is {_model_id(state)!r}", code="model_not_found"
        )
    return OpenAIModel(id=model_id)


def _model_id(state: AppState) -> str:
    engine = next((each.engine for each in state.pool.registry.engines() if each.engine), "csm")
    return "csm-1b" if engine == "csm" else engine
