"""GET and POST /tts/generate (API.md section 1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from ..audio.encoders import FORMATS, Format, choose_format
from ..audio.postprocessing import resolve_watermark_key, with_effects
from ..audio.timeline import Timeline
from ..errors import BadRequest, Unprocessable
from ..responses.sse import as_events
from ..responses.streaming import SpeechResponse
from ..responses.subtitles import Subtitles, as_subtitles
from ..schemas.errors import SPEECH_ERRORS, error_responses
from ..schemas.speech import SpeechBody, SpeechParameters
from ..state import AppState, StateDep

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio, streamed while it is generated.",
        "content": {
            **{audio.media_type: {"schema": {"type": "string", "format": "binary"}} for audio in FORMATS.values()},
            "text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}},
            **{subtitles: {"schema": {"type": "string"}} for subtitles in ("application/x-subrip", "text/vtt")},
        },
    },
    **error_responses(*SPEECH_ERRORS),
}

_EVENTS = "text/event-stream"
_PARTIAL_RANGE = re.compile(r"bytes=0*[1-9]")

router = APIRouter(tags=["speech"], responses=RESPONSES)


@router.get("/tts/generate", status_code=200, response_class=SpeechResponse)
async def generate_from_query(
    parameters: Annotated[SpeechParameters, Query()], request: Request, state: StateDep
) -> SpeechResponse:
    """Generate the speech of a text given in the query."""
    if _PARTIAL_RANGE.match(request.headers.get("range", "")):
        # Chromium's <audio> sends such requests for the rest of a broken stream: up to 30, each generated from the
        # start. It stops at status 400; it would take 416 for the end of the stream.
        raise BadRequest("partial content is not supported, since speech is generated live", code="no_ranges")
    return await _speech_response(parameters, request, state)


@router.post("/tts/generate", status_code=200, response_class=SpeechResponse, responses=error_responses(415))
async def generate_from_body(
    parameters: Annotated[SpeechBody, Body()], request: Request, state: StateDep
) -> SpeechResponse:
    """Generate the speech of a text given in the body."""
    if request.query_params:
        raise Unprocessable(
            f"{next(iter(request.query_params))[:60]} is in the query: POST takes its parameters as a JSON body",
            code="invalid_parameter",
        )
    return await _speech_response(parameters, request, state)


async def _speech_response(parameters: SpeechParameters, request: Request, state: AppState) -> SpeechResponse:
    job = parameters.to_job(state.settings)
    audio_format = choose_format(parameters.format, request.headers.get("accept"), parameters.sample_rate)
    watermark_key = resolve_watermark_key(state.settings)
    job = await state.references.resolve(job)
    audio_format = with_effects(audio_format, watermark_key=watermark_key)
    marked = with_marks(audio_format, request, parameters.subtitles, len(parameters.text))
    if marked is None:
        return SpeechResponse(state.pool, job, audio_format)
    return SpeechResponse(state.pool, job.with_timestamps(), marked, Timeline(parameters.text))


def with_marks(
    audio_format: Format, request: Request, subtitles: Subtitles | None, characters: int, speakers: Sequence[str] = ()
) -> Format | None:
    """The format that tells when each word is said, if the request asks for one: subtitles, or events.

    characters: of the text. speakers: of each turn of a dialogue.
    """
    if subtitles is not None:
        return as_subtitles(audio_format, subtitles, speakers)
    return as_events(audio_format, characters) if _EVENTS in request.headers.get("accept", "") else None
