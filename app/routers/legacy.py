"""Speech answered whole, as the clients of CSM's earlier servers ask for it: API.md section 4."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from starlette.types import Receive, Scope, Send

from engine import SAMPLE_RATE

from ..audio.encoders import wav_file
from ..audio.encoders.base import Samples
from ..audio.thread_pool import run_in_thread
from ..errors import Busy, ServiceError, Unavailable, Unprocessable
from ..observability.request_log import RequestRecord, record_of
from ..responses.buffered import ClientDisconnected, cancel_on_disconnect, collect_speech
from ..schemas.legacy import (
    GeneratedAudio,
    GenerateParameters,
    SpeakerId,
    SpeakParameters,
    SpokenAudio,
    SpokenMetadata,
    TextParameters,
)
from ..schemas.speech import ErrorBody
from ..state import AppState, StateDep
from ..voices.speakers import speaker_number

MOST_TEXTS = 1000  # of one call to /stream/chunks
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 404, 413, 422, 429, 500, 503)
}

router = APIRouter(tags=["batch"], responses=_ERRORS)


@router.post("/generate")
async def generate(parameters: GenerateParameters, request: Request, service: StateDep) -> GeneratedAudio:
    """Speak a text, and answer with all of it in JSON."""
    began = time.monotonic()
    samples = await _speak_text(parameters, request, service)
    audio = await run_in_thread(lambda: _wav_base64(samples))
    return GeneratedAudio(
        audio_base64=audio,
        sample_rate=SAMPLE_RATE,
        duration_ms=samples.size * 1000 / SAMPLE_RATE,
        processing_time_ms=_milliseconds_since(began),
        watermarked=parameters.key(service.settings) is not None,
    )


@router.post(
    "/generate/wav",
    response_class=Response,
    responses={200: {"content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def generate_wav(parameters: GenerateParameters, request: Request, service: StateDep) -> Response:
    """Speak a text, and answer with all of it as a wav file of exact length."""
    samples = await _speak_text(parameters, request, service)
    return Response(await run_in_thread(lambda: wav_file(samples)), media_type="audio/wav")


@router.post("/api/generate")
async def api_generate(parameters: SpeakParameters, request: Request, service: StateDep) -> SpokenAudio:
    """Speak a text in a voice at a speed, and answer with all of it in JSON."""
    record = record_of(request.scope)
    work = collect_speech(
        service.pool,
        parameters.job(service.settings),
        record,
        speed=parameters.speed,
        key=service.settings.watermark_key if service.settings.csm_watermark_enabled else None,
    )
    samples, engine = await cancel_on_disconnect(request.receive, record, work)
    return SpokenAudio(
        audio_data=await run_in_thread(lambda: _wav_base64(samples)),
        format="wav",
        sample_rate=SAMPLE_RATE,
        duration=samples.size / SAMPLE_RATE,
        metadata=SpokenMetadata(
            model="csm-1b" if engine == "csm" else engine,
            voice=parameters.voice,
            speaker=speaker_number(parameters.voice),
            streaming=True,
        ),
    )


@router.post(
    "/stream/chunks",
    response_class=Response,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
async def stream_chunks(
    texts: Annotated[list[str], Body(min_length=1, max_length=MOST_TEXTS)],
    service: StateDep,
    speaker_id: Annotated[SpeakerId, Query()] = 0,
    watermark: Annotated[bool | None, Query()] = None,
) -> Response:
    """Speak texts one after the other; each is a line of the answer as soon as it is ready."""
    return _Lines(service, texts, speaker_id, watermark)


async def _speak_text(parameters: TextParameters, request: Request, service: AppState) -> Samples:
    record = record_of(request.scope)
    job, key = parameters.job(service.settings), parameters.key(service.settings)
    samples, _ = await cancel_on_disconnect(request.receive, record, collect_speech(service.pool, job, record, key=key))
    return samples


class _Lines(Response):
    """A line of JSON for each text. One that cannot be spoken has a line that says why, and the next is spoken.

    Nothing is sent before the first line, so where nobody can speak at all that still has its status.
    """

    media_type = "application/x-ndjson"

    def __init__(self, service: AppState, texts: list[str], speaker_id: int, watermark: bool | None) -> None:
        self.status_code = 200
        self.background = None
        self._service = service
        self._texts = texts
        self._voice: dict[str, Any] = {"speaker_id": speaker_id, "watermark": watermark}
        self.init_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        with suppress(ClientDisconnected):  # there is nobody to send an end to
            await cancel_on_disconnect(receive, record, self._send_lines(record, send))

    async def _send_lines(self, record: RequestRecord, send: Send) -> None:
        for number, text in enumerate(self._texts, start=1):
            part = record.part(number)
            try:
                line = await self._line(part, text)
                part.outcome = "ok"
            except ServiceError as error:
                part.outcome = "failed" if error.status == 500 else "refused"
                if number == 1 and isinstance(error, Busy | Unavailable):
                    raise
                line = {"error": error.detail, "code": error.code, "text": text}
            finally:
                part.outcome = part.outcome or "left"
                part.end()
            if number == 1:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _line(self, record: RequestRecord, text: str) -> dict[str, Any]:
        if not text.strip():
            raise Unprocessable("No text provided", code="no_text")
        parameters = TextParameters.model_construct(text=text, **self._voice)
        job, key = parameters.job(self._service.settings), parameters.key(self._service.settings)
        samples, _ = await collect_speech(self._service.pool, job, record, key=key)
        return {
            "text": text,
            "audio_base64": await run_in_thread(lambda: _wav_base64(samples)),
            "sample_rate": SAMPLE_RATE,
        }


def _wav_base64(samples: Samples) -> str:
    return base64.b64encode(wav_file(samples)).decode()


def _milliseconds_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
