"""Dialogues: POST /tts/dialogue, and ElevenLabs' /v1/text-to-dialogue (API.md sections 10 and 11)."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ..audio.encoders import choose_format
from ..audio.postprocessing import resolve_watermark_key, with_effects
from ..audio.timeline import Timeline
from ..responses.alignment import with_alignment
from ..responses.dialogue_alignment import DialogueAlignment
from ..responses.streaming import SpeechResponse
from ..schemas.dialogue import DialogueBody, ElevenLabsDialogue
from ..schemas.elevenlabs import DEFAULT_OUTPUT_FORMAT, encoded_format, speed_of
from ..schemas.errors import error_responses
from ..state import AppState, StateDep
from ..voices.voice_id import stem_of
from .elevenlabs import AUDIO as ELEVENLABS_AUDIO
from .elevenlabs import TIMED, OutputFormat, Timestamps
from .speech import RESPONSES, with_marks

router = APIRouter()


@router.post(
    "/tts/dialogue",
    status_code=200,
    response_class=SpeechResponse,
    responses={**RESPONSES, **error_responses(415)},
    tags=["speech"],
)
async def generate_dialogue(body: DialogueBody, request: Request, state: StateDep) -> SpeechResponse:
    """Generate a dialogue of several voices, which hear each other: one stream, one context."""
    job = body.to_job(state.settings)
    audio_format = choose_format(body.format, request.headers.get("accept"), body.sample_rate)
    audio_format = with_effects(audio_format, watermark_key=resolve_watermark_key(state.settings))
    speakers = [stem_of(turn.voice_id) for turn in body.turns]
    marked = with_marks(audio_format, request, body.subtitles, len(job.request.text), speakers)
    if marked is None:
        return SpeechResponse(state.pool, job, audio_format)
    timeline = Timeline(job.request.text, turns=body.script)
    return SpeechResponse(state.pool, job.with_timestamps(), marked, timeline)


@router.post(
    "/v1/text-to-dialogue",
    status_code=200,
    response_class=SpeechResponse,
    responses=ELEVENLABS_AUDIO,
    tags=["elevenlabs"],
)
@router.post(
    "/v1/text-to-dialogue/stream",
    status_code=200,
    response_class=SpeechResponse,
    responses=ELEVENLABS_AUDIO,
    tags=["elevenlabs"],
)
async def convert_dialogue(
    body: ElevenLabsDialogue, state: StateDep, output_format: OutputFormat = DEFAULT_OUTPUT_FORMAT
) -> SpeechResponse:
    """Generate a dialogue of several voices; both routes stream."""
    return _elevenlabs_response(body, state, output_format)


@router.post(
    "/v1/text-to-dialogue/with-timestamps",
    status_code=200,
    response_class=SpeechResponse,
    responses=TIMED,
    tags=["elevenlabs"],
)
async def convert_dialogue_with_timestamps(
    body: ElevenLabsDialogue, state: StateDep, output_format: OutputFormat = DEFAULT_OUTPUT_FORMAT
) -> SpeechResponse:
    """Generate a dialogue; the answer is one JSON object with its audio, its alignment and whose turn is when."""
    return _elevenlabs_response(body, state, output_format, timestamps="whole")


@router.post(
    "/v1/text-to-dialogue/stream/with-timestamps",
    status_code=200,
    response_class=SpeechResponse,
    responses=TIMED,
    tags=["elevenlabs"],
)
async def stream_dialogue_with_timestamps(
    body: ElevenLabsDialogue, state: StateDep, output_format: OutputFormat = DEFAULT_OUTPUT_FORMAT
) -> SpeechResponse:
    """Generate a dialogue as lines of JSON, with the alignment of each text chunk after its audio."""
    return _elevenlabs_response(body, state, output_format, timestamps="streamed")


def _elevenlabs_response(
    body: ElevenLabsDialogue, state: AppState, output_format: str, timestamps: Timestamps | None = None
) -> SpeechResponse:
    audio_format = encoded_format(output_format, body.settings, state.settings)
    job = body.to_dialogue_job(state.settings)
    if timestamps is None:
        return SpeechResponse(state.pool, job, audio_format)
    aligned = with_alignment(audio_format, lambda: DialogueAlignment(body.script), streamed=timestamps == "streamed")
    timeline = Timeline(job.request.text, speed_of(body.settings), turns=body.script)
    return SpeechResponse(state.pool, job.with_timestamps(), aligned, timeline)
