"""ElevenLabs-compatible routes (API.md section 11)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request, WebSocket

from ..audio.encoders import FORMATS
from ..audio.timeline import Timeline
from ..errors import ServiceError, Unprocessable
from ..middleware.error_handlers import response_of
from ..responses.alignment import Alignment, with_alignment
from ..responses.streaming import SpeechResponse
from ..schemas.elevenlabs import (
    DEFAULT_OUTPUT_FORMAT,
    ElevenLabsSpeech,
    ElevenLabsSubscription,
    ElevenLabsVoice,
    ElevenLabsVoiceDeleted,
    ElevenLabsVoicePage,
    ElevenLabsVoices,
    ElevenLabsVoiceStored,
    StreamOptions,
    encoded_format,
    parse_flag,
    speed_of,
)
from ..schemas.errors import SPEECH_ERRORS, elevenlabs_error_responses
from ..schemas.forms import recording_form
from ..state import AppState, StateDep
from ..voices.openai_voices import OPENAI_VOICES
from ..voices.recording_format import FORMATS as RECORDING_FORMATS
from ..voices.speakers import speaker_number
from ..voices.upload import UploadFields, read_upload
from ..voices.voice_id import is_voice_id, stem_of, suggest_id
from ..websocket.context_session import ContextSession
from ..websocket.elevenlabs_protocol import ElevenLabsProtocol, StreamSettings
from ..websocket.messages import validate
from ..websocket.session import WebSocketSession
from .voices import prepare_ahead, query_voices, store_joined, store_recording
from .websocket import check_voice

_SPEAKERS = tuple(f"speaker_{number}" for number in range(len(OPENAI_VOICES)))  # those that are listed
_UPLOAD = UploadFields(
    "files", "transcript", "name", ("description", "labels", "remove_background_noise"), max_files=25
)
_FORM = recording_form(
    "files",
    f"Recordings: {RECORDING_FORMATS}. As many as fit into MAX_VOICE_SECONDS are joined, in their order.",
    {
        "name": {"type": "string", "description": "The voice's id, adapted to the rules of ids."},
        "transcript": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Beyond ElevenLabs' API: the words of each file, or once those of all.",
        },
        "description": {"type": "string", "description": "Ignored."},
        "labels": {"type": "string", "description": "Ignored."},
        "remove_background_noise": {"type": "boolean", "description": "true is refused."},
    },
    required=("name",),
    max_files=_UPLOAD.max_files,
)
AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio, streamed while it is generated.",
        "content": {audio.media_type: {"schema": {"type": "string", "format": "binary"}} for audio in FORMATS.values()},
    },
    **elevenlabs_error_responses(*SPEECH_ERRORS),
}
TIMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Audio in base64, and when each character of the text is said.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
    **elevenlabs_error_responses(*SPEECH_ERRORS),
}
_UPLOAD_ERRORS = (400, 401, 409, 413, 415, 422, 429, 503)

Timestamps = Literal["whole", "streamed"]
OutputFormat = Annotated[str, Query(max_length=64, description="Such as mp3_44100_128, pcm_16000 or ulaw_8000.")]

router = APIRouter(tags=["elevenlabs"])


@router.post("/v1/text-to-speech/{voice_id}", status_code=200, response_class=SpeechResponse, responses=AUDIO)
async def convert(
    voice_id: str, body: ElevenLabsSpeech, state: StateDep, output_format: OutputFormat = DEFAULT_OUTPUT_FORMAT
) -> SpeechResponse:
    """Generate the speech of a text."""
    return _speech_response(voice_id, body, state, output_format)


@router.post("/v1/text-to-speech/{voice_id}/stream", status_code=200, response_class=SpeechResponse, responses=AUDIO)
async def stream(
    voice_id: str, body: ElevenLabsSpeech, state: StateDep, output_format: OutputFormat = DEFAULT_OUTPUT_FORMAT
) -> SpeechResponse:
    """Generate the speech of a text; both routes stream."""
    return _speech_response(voice_id, body, state, output_format)


@router.post(
    "/v1/text-to-speech/{voice_id}/with-timestamps",
    status_code=200,
    response_class=SpeechResponse,
    responses=TIMED,
)
async def convert_with_timestamps(
    voice_id: str, body: ElevenLabsSpeech, state: StateDep, output_format: OutputFormat = DEFAULT_OUTPUT_FORMAT
) -> SpeechResponse:
    """Generate the speech of a text; the answer is one JSON object with its audio and its alignment."""
    return _speech_response(voice_id, body, state, output_format, timestamps="whole")


@router.post(
    "/v1/text-to-speech/{voice_id}/stream/with-timestamps",
    status_code=200,
    response_class=SpeechResponse,
    responses=TIMED,
)
async def stream_with_timestamps(
    voice_id: str, body: ElevenLabsSpeech, state: StateDep, output_format: OutputFormat = DEFAULT_OUTPUT_FORMAT
) -> SpeechResponse:
    """Generate the speech of a text as lines of JSON, with the alignment of each text chunk after its audio."""
    return _speech_response(voice_id, body, state, output_format, timestamps="streamed")


def _speech_response(
    voice_id: str,
    body: ElevenLabsSpeech,
    state: AppState,
    output_format: str,
    timestamps: Timestamps | None = None,
) -> SpeechResponse:
    audio_format = encoded_format(output_format, body.voice_settings, state.settings)
    job = body.to_job(body.text, voice_id, body.voice_settings, state.settings)
    if timestamps is None:
        return SpeechResponse(state.pool, job, audio_format)
    aligned = with_alignment(audio_format, lambda: Alignment(body.text), streamed=timestamps == "streamed")
    timeline = Timeline(body.text, speed_of(body.voice_settings))
    return SpeechResponse(state.pool, job.with_timestamps(), aligned, timeline)


@router.websocket("/v1/text-to-speech/{voice_id}/stream-input")
async def stream_input(websocket: WebSocket, voice_id: str, state: StateDep) -> None:
    """Speech of a text that is still being written. The handshake is refused if the voice or the query is wrong."""
    stream = await _read_query(websocket, voice_id, state)
    if stream is not None:
        protocol = ElevenLabsProtocol(stream, state.pool.host.components)
        await WebSocketSession(websocket, state, protocol).run()


@router.websocket("/v1/text-to-speech/{voice_id}/multi-stream-input")
async def multi_stream_input(websocket: WebSocket, voice_id: str, state: StateDep) -> None:
    """The same for several texts at once, each in a context of its own."""
    stream = await _read_query(websocket, voice_id, state, sync_alignment="true")
    if stream is not None:
        await ContextSession(websocket, state, stream).run()


async def _read_query(websocket: WebSocket, voice_id: str, state: AppState, **defaults: str) -> StreamSettings | None:
    """What a connection asks for; None if that is wrong, and the handshake has been refused."""
    try:
        options = validate(StreamOptions, {**defaults, **websocket.query_params})
        stream = StreamSettings(state.settings, voice_id, options)
        await anyio.to_thread.run_sync(check_voice, state, voice_id)
    except ServiceError as error:
        await websocket.send_denial_response(response_of(error, websocket.scope["path"]))
        return None
    return stream


@router.get("/v1/voices", response_model=ElevenLabsVoices, responses=elevenlabs_error_responses(401))
async def voices(state: StateDep) -> ElevenLabsVoices:
    """All voices: recordings first, then the built-in speakers."""
    return ElevenLabsVoices(voices=await query_voices(lambda: _list_voices(state)))


@router.get("/v2/voices", response_model=ElevenLabsVoicePage, responses=elevenlabs_error_responses(401, 422))
async def search(
    state: StateDep,
    page_size: Annotated[int, Query(ge=1, le=100)] = 10,
    next_page_token: Annotated[str | None, Query(max_length=512, description="Of the previous page.")] = None,
    search: Annotated[str | None, Query(max_length=128, description="A part of the name.")] = None,
    category: Annotated[str | None, Query(max_length=64, description="cloned or premade.")] = None,
    voice_ids: Annotated[list[str] | None, Query(max_length=100)] = None,
) -> ElevenLabsVoicePage:
    """A page of the voices that match."""
    found = [
        voice
        for voice in await query_voices(lambda: _list_voices(state))
        if (not search or search.casefold() in voice.name.casefold())
        and (not category or voice.category == category)
        and (not voice_ids or voice.voice_id in voice_ids)
    ]
    start = 0
    if next_page_token:
        start = next((index + 1 for index, each in enumerate(found) if each.voice_id == next_page_token), -1)
        if start < 0:
            raise Unprocessable(
                f"next_page_token {next_page_token[:60]!r} is not of a voice in this list: start again without it",
                code="invalid_parameter",
            )
    page = found[start : start + page_size]
    has_more = start + page_size < len(found)
    return ElevenLabsVoicePage(
        voices=page,
        has_more=has_more,
        total_count=len(found),
        next_page_token=page[-1].voice_id if has_more else None,
    )


@router.post(
    "/v1/voices/add",
    response_model=ElevenLabsVoiceStored,
    openapi_extra=_FORM,
    responses=elevenlabs_error_responses(*_UPLOAD_ERRORS),
)
async def add(request: Request, state: StateDep) -> ElevenLabsVoiceStored:
    """Store a new voice from one recording, or from several that are joined."""
    async with state.uploads.reserve(), read_upload(request, _UPLOAD) as form:
        if parse_flag("remove_background_noise", form.others.get("remove_background_noise", "")):
            raise Unprocessable(
                "remove_background_noise is not supported: leave it out, and send a clean recording",
                code="invalid_parameter",
            )
        if not form.voice_id:
            raise Unprocessable("name is missing: send the voice's name", code="bad_voice_id")
        voice_id = form.voice_id if is_voice_id(form.voice_id) else suggest_id(form.voice_id) or form.voice_id
        joined, warnings = [], []
        if len(form.recordings) == 1 and len(form.transcripts) <= 1:
            voice = await store_recording(state.voices.add, voice_id, form)
        else:
            voice, made = await store_joined(state.voices, voice_id, form)
            joined, warnings = list(made.names), list(made.warnings)
    await prepare_ahead(state, voice.voice_id)
    return ElevenLabsVoiceStored(voice_id=voice.voice_id, joined=joined, warnings=[*warnings, *voice.warnings])


@router.get(
    "/v1/voices/{voice_id}",
    response_model=ElevenLabsVoice,
    responses=elevenlabs_error_responses(400, 401, 404, 413, 415, 422, 503),
)
async def details(voice_id: str, state: StateDep) -> ElevenLabsVoice:
    """Details of a voice."""
    if speaker_number(voice_id) is not None:
        return _speaker(voice_id)
    voice = await query_voices(lambda: state.voices.get(voice_id))
    described = _recorded(voice.voice_id, preloaded=voice.preloaded)
    return described.model_copy(update={"created_at_unix": int(datetime.fromisoformat(voice.created).timestamp())})


@router.delete(
    "/v1/voices/{voice_id}",
    response_model=ElevenLabsVoiceDeleted,
    responses=elevenlabs_error_responses(401, 403, 404, 422, 503),
)
async def delete(voice_id: str, state: StateDep) -> ElevenLabsVoiceDeleted:
    """Delete an uploaded voice."""
    await query_voices(lambda: state.voices.delete(voice_id))
    return ElevenLabsVoiceDeleted()


@router.get("/v1/user/subscription", response_model=ElevenLabsSubscription, responses=elevenlabs_error_responses(401))
async def subscription(state: StateDep) -> ElevenLabsSubscription:
    """A subscription without limits."""
    listed = await query_voices(lambda: _list_voices(state))
    return ElevenLabsSubscription(voice_slots_used=sum(each.category == "cloned" for each in listed))


def _list_voices(state: AppState) -> list[ElevenLabsVoice]:
    recorded = [_recorded(each, preloaded=state.voices.is_preloaded(each)) for each in state.voices.ids()]
    return [*recorded, *map(_speaker, _SPEAKERS)]


def _recorded(voice_id: str, *, preloaded: bool) -> ElevenLabsVoice:
    return ElevenLabsVoice(
        voice_id=voice_id,
        name=stem_of(voice_id),
        category="premade" if preloaded else "cloned",
        is_owner=not preloaded,
    )


def _speaker(voice_id: str) -> ElevenLabsVoice:
    return ElevenLabsVoice(
        voice_id=voice_id,
        name=f"Speaker {speaker_number(voice_id)}",
        category="premade",
        description="A built-in speaker of the model",
        is_owner=False,
    )
