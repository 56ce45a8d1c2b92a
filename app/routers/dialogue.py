"""Dialogues: POST /tts/dialogue, and ElevenLabs' /v1/text-to-dialogue (API.md sections 10 and 11)."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ..audio.encoders import choose_format
from ..audio.postprocessing import resolve_watermark_key, with_effects
from ..audio.timeline import Timeline
from ..responses.streaming import SpeechResponse
from ..schemas.dialogue import DialogueBody, ElevenLabsDialogue
from ..schemas.elevenlabs import DEFAULT_OUTPUT_FORMAT, encoded_format
from ..schemas.errors import error_responses
from ..state import StateDep
from .elevenlabs import AUDIO as ELEVENLABS_AUDIO
from .elevenlabs import OutputFormat
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
    marked = with_marks(audio_format, request, body.subtitles, len(body.text))
    if marked is None:
        return SpeechResponse(state.pool, job, audio_format)
    timeline = Timeline(body.text, turns=[len(turn.text) for turn in body.turns])
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
    audio_format = encoded_format(output_format, body.settings, state.settings)
    return SpeechResponse(state.pool, body.to_dialogue_job(state.settings), audio_format)
