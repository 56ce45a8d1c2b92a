"""Speech recognition as OpenAI's clients call it (API.md section 5)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import numpy as np
from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse, PlainTextResponse, Response

from engine import SAMPLE_RATE, MachineLimits

from ..audio.thread_pool import run_in_executor
from ..errors import TooLarge, Unprocessable
from ..schemas.errors import error_responses
from ..schemas.forms import recording_form
from ..state import AppState, StateDep
from ..stt.transcriber import Samples
from ..voices.recording_decoder import VoiceDecoder
from ..voices.upload import read_form
from .realtime import RealtimeDep

MAX_SECONDS = 600.0  # of a recording
_MIN_SECONDS = 0.05
_FORMATS = ("json", "text", "verbose_json")
_MAX_FIELDS = 16
_MEBIBYTE = 1 << 20

_decode_executor = ThreadPoolExecutor(min(2, MachineLimits().cores().threads()), thread_name_prefix="decode-recording")

_FORM = recording_form(
    "file",
    "The recording.",
    {
        "model": {"type": "string", "description": "Ignored: the service has one recogniser."},
        "language": {"type": "string", "description": "A code such as en."},
        "prompt": {"type": "string", "description": "Words to expect."},
        "response_format": {"type": "string", "enum": list(_FORMATS), "default": "json"},
        "stream": {"type": "boolean", "default": False, "description": "Server-sent events."},
    },
    others=True,
)

router = APIRouter(prefix="/v1", tags=["openai"])


@router.post(
    "/audio/transcriptions",
    openapi_extra=_FORM,
    response_class=JSONResponse,
    responses=error_responses(400, 401, 413, 415, 422, 429, 503),
)
async def transcribe(request: Request, state: StateDep, service: RealtimeDep) -> Response:
    """The words of a recording."""
    async with state.uploads.reserve(), read_form(request, _MAX_FIELDS) as form:
        file, response_format = form.get("file"), _text(form, "response_format") or "json"
        if not isinstance(file, UploadFile):
            raise Unprocessable("file is missing: send the recording as a file in that field", code="no_file")
        if response_format not in _FORMATS:
            raise Unprocessable(
                f"response_format: it must be {', '.join(_FORMATS)}, not {response_format[:60]!r}",
                code="invalid_parameter",
            )
        samples = await run_in_executor(_decode_executor, lambda: _decode(state, file.file.read()))
        language = _text(form, "language")
        words = ""
        if samples.size:
            words = await service.transcriber.transcribe(samples, language, _text(form, "prompt"))
    if (_text(form, "stream") or "").lower() in ("true", "1"):
        response = Response(_events(words), media_type="text/event-stream")
    else:
        shape = cast(Literal["json", "text", "verbose_json"], response_format)
        response = _response(shape, words, language, samples)
    response.headers["X-STT-Engine"] = service.transcriber.name.encode("ascii", "replace").decode()
    return response


def _decode(state: AppState, recording: bytes) -> Samples:
    """Float32 (samples,) at 24 kHz; empty if the recording is silent. Blocks: call it in a thread."""
    settings = state.settings
    limit = int(settings.max_upload_mb * _MEBIBYTE)
    try:
        with VoiceDecoder(limit, MAX_SECONDS, min_seconds=_MIN_SECONDS) as decoder:
            return decoder.decode(recording).samples
    except TooLarge:
        raise TooLarge(
            f"the recording has {len(recording) / _MEBIBYTE:.1f} MB, and at most {settings.max_upload_mb:g} MB "
            f"(MAX_UPLOAD_MB) and {MAX_SECONDS:g} seconds are taken: send it in parts"
        ) from None
    except Unprocessable as error:
        if error.code == "voice_silent":
            return np.zeros(0, np.float32)
        raise


def _response(
    response_format: Literal["json", "text", "verbose_json"], words: str, language: str | None, samples: Samples
) -> Response:
    seconds = samples.size / SAMPLE_RATE
    if response_format == "text":
        return PlainTextResponse(f"{words}\n")
    body: dict[str, Any] = {"text": words, "usage": {"type": "duration", "seconds": round(seconds)}}
    if response_format == "verbose_json":
        body |= {"task": "transcribe", "language": language or "", "duration": round(seconds, 3), "segments": []}
    return JSONResponse(body)


def _events(words: str) -> str:
    """The words as OpenAI streams them: here all at once, since they are known together."""
    events = [
        {"type": "transcript.text.delta", "delta": words},
        {"type": "transcript.text.done", "text": words},
    ]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def _text(form: FormData, name: str) -> str | None:
    """A field's text; None if it is missing or empty."""
    value = form.get(name)
    if isinstance(value, UploadFile):
        raise Unprocessable(f"{name} is text, not a file", code="invalid_parameter")
    return value or None
