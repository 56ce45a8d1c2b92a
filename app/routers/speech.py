"""Generate speech: API.md section 1."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from ..audio.encoders import FORMATS, choose_format
from ..audio.postprocessing import key_for, with_effects
from ..errors import BadRequest, Unprocessable
from ..responses.streaming import SpeechResponse
from ..schemas.speech import ErrorBody, SpeechParameters
from ..state import AppState, StateDep

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio, streamed while it is spoken.",
        "content": {audio.media_type: {"schema": {"type": "string", "format": "binary"}} for audio in FORMATS.values()},
    },
    **{status: {"model": ErrorBody} for status in (400, 401, 404, 413, 422, 429, 500, 503)},
}

_LATER_PART = re.compile(r"bytes=0*[1-9]")

router = APIRouter(tags=["speech"], responses=_RESPONSES)


@router.get("/tts/generate", status_code=200, response_class=SpeechResponse)
async def generate_from_query(
    parameters: Annotated[SpeechParameters, Query()], request: Request, service: StateDep
) -> SpeechResponse:
    """Speak the text of the query."""
    if _LATER_PART.match(request.headers.get("range", "")):
        # Chromium's <audio> asks like this for the rest of a stream that broke: 30 times, each spoken from its start.
        # It gives up at this status; 416 it would take for the end of the stream.
        raise BadRequest("speech is made as it is heard and has no later part: ask for all of it", code="no_ranges")
    return _speak(parameters, request, service)


@router.post("/tts/generate", status_code=200, response_class=SpeechResponse)
async def generate_from_body(
    parameters: Annotated[SpeechParameters, Body()], request: Request, service: StateDep
) -> SpeechResponse:
    """Speak the text of the body."""
    if request.query_params:
        raise Unprocessable(
            f"{next(iter(request.query_params))[:60]} stands in the query: POST takes its parameters as a JSON body",
            code="invalid_parameter",
        )
    return _speak(parameters, request, service)


def _speak(parameters: SpeechParameters, request: Request, service: AppState) -> SpeechResponse:
    job = parameters.job(service.settings)
    audio = with_effects(choose_format(parameters.format, request.headers.get("accept")), key=key_for(service.settings))
    return SpeechResponse(service.pool, job, audio)
