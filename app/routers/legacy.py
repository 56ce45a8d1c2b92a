"""Buffered speech in JSON or wav, for clients of earlier CSM servers (API.md section 4)."""

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
from ..audio.postprocessing import resolve_watermark_key
from ..audio.thread_pool import run_in_thread
from ..errors import Busy, ServiceError, Unavailable, Unprocessable
from ..observability.request_log import RequestRecord, record_of
from ..responses.buffered import collect_speech
from ..responses.disconnect import ClientDisconnected, cancel_on_disconnect
from ..schemas.errors import SPEECH_ERRORS, error_responses
from ..schemas.legacy import (
    GeneratedAudio,
    GenerateParameters,
    SpeakerId,
    SpeakParameters,
    SpokenAudio,
    SpokenMetadata,
    TextParameters,
)
from ..state import AppState, StateDep
from ..voices.speakers import speaker_number

MAX_TEXTS = 1000  # of one call to /stream/chunks

router = APIRouter(tags=["batch"], responses=error_responses(*SPEECH_ERRORS))


@router.post("/generate")
async def generate(parameters: GenerateParameters, request: Request, state: StateDep) -> GeneratedAudio:
    """Generate the speech of a text; a wav file in JSON."""
    started = time.monotonic()
    samples = await _collect_speech(parameters, request, state)
    audio = await run_in_thread(lambda: _wav_base64(samples))
    return GeneratedAudio(
        audio_base64=audio,
        sample_rate=SAMPLE_RATE,
        duration_ms=samples.size * 1000 / SAMPLE_RATE,
        processing_time_ms=_milliseconds_since(started),
        watermarked=parameters.resolve_watermark_key(state.settings) is not None,
    )


@router.post(
    "/generate/wav",
    response_class=Response,
    responses={200: {"content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def generate_wav(parameters: GenerateParameters, request: Request, state: StateDep) -> Response:
    """Generate the speech of a text; a wav file of exact length."""
    samples = await _collect_speech(parameters, request, state)
    return Response(await run_in_thread(lambda: wav_file(samples)), media_type="audio/wav")


@router.post("/api/generate")
async def api_generate(parameters: SpeakParameters, request: Request, state: StateDep) -> SpokenAudio:
    """Generate the speech of a text in a voice at a speed; a wav file in JSON."""
    record = record_of(request.scope)
    work = collect_speech(
        state.pool,
        parameters.to_job(state.settings),
        record,
        speed=parameters.speed,
        watermark_key=resolve_watermark_key(state.settings),
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
    texts: Annotated[list[str], Body(min_length=1, max_length=MAX_TEXTS)],
    state: StateDep,
    speaker_id: Annotated[SpeakerId, Query()] = 0,
    watermark: Annotated[bool | None, Query()] = None,
) -> Response:
    """Generate the speech of several texts in order; one JSON line per text, sent as soon as it is ready."""
    return _JsonLinesResponse(state, texts, speaker_id, watermark)


async def _collect_speech(parameters: TextParameters, request: Request, state: AppState) -> Samples:
    record = record_of(request.scope)
    work = collect_speech(
        state.pool,
        parameters.to_job(state.settings),
        record,
        watermark_key=parameters.resolve_watermark_key(state.settings),
    )
    samples, _ = await cancel_on_disconnect(request.receive, record, work)
    return samples


class _JsonLinesResponse(Response):
    """One JSON line per text. A text that fails gets a line with its error, and the next one is generated.

    Nothing is sent before the first line, so a service that is busy or unavailable then responds with that status.
    """

    media_type = "application/x-ndjson"

    def __init__(self, state: AppState, texts: list[str], speaker_id: int, watermark: bool | None) -> None:
        self.status_code = 200
        self.background = None
        self._state = state
        self._texts = texts
        self._parameters: dict[str, Any] = {"speaker_id": speaker_id, "watermark": watermark}
        self.init_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        with suppress(ClientDisconnected):  # there is no client to end the response for
            await cancel_on_disconnect(receive, record, self._send_lines(record, send))

    async def _send_lines(self, record: RequestRecord, send: Send) -> None:
        for number, text in enumerate(self._texts, start=1):
            text_record = record.next_part()
            try:
                line = await self._generate_line(text_record, text)
                text_record.outcome = "ok"
            except ServiceError as error:
                text_record.outcome = "failed" if error.status == 500 else "refused"
                if number == 1 and isinstance(error, Busy | Unavailable):
                    raise
                line = {"error": error.detail, "code": error.code, "text": text}
            finally:
                text_record.outcome = text_record.outcome or "left"
                text_record.end()
            if number == 1:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _generate_line(self, record: RequestRecord, text: str) -> dict[str, Any]:
        if not text.strip():
            raise Unprocessable("No text provided", code="no_text")
        parameters = TextParameters.model_construct(text=text, **self._parameters)
        settings = self._state.settings
        samples, _ = await collect_speech(
            self._state.pool,
            parameters.to_job(settings),
            record,
            watermark_key=parameters.resolve_watermark_key(settings),
        )
        return {
            "text": text,
            "audio_base64": await run_in_thread(lambda: _wav_base64(samples)),
            "sample_rate": SAMPLE_RATE,
        }


def _wav_base64(samples: Samples) -> str:
    return base64.b64encode(wav_file(samples)).decode()


def _milliseconds_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
