"""Voices: API.md section 2."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request

from engine import EngineError, MachineLimits

from ..audio.thread_pool import in_pool, workshop
from ..errors import ServiceError, Unprocessable
from ..schemas.speech import ErrorBody, VoiceDeleted, VoiceDetails, VoiceStored
from ..state import AppState, StateDep
from ..voices.upload import VoiceUpload, read_upload

_log = logging.getLogger(__name__)

# Threads of their own, so that speech and control routes never wait for recordings, nor lists for uploads.
_asking = ThreadPoolExecutor(4, thread_name_prefix="ask-voices")
# As many recordings as are decoded at once, each in a process of its own.
_storing = ThreadPoolExecutor(min(2, MachineLimits().cores().threads()), thread_name_prefix="store-voice")
_preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare-voice")

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The recording: wav, mp3, flac, ogg/opus, m4a/mp4 or webm.",
                        },
                        "transcript": {"type": "string", "description": "The words that are said in it."},
                        "voice_id": {
                            "type": "string",
                            "description": "1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot; the default is "
                            "the name of the file.",
                        },
                    },
                },
                "encoding": {"file": {"contentType": "audio/*"}},
            }
        },
    }
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in (401, *statuses)}


_UNUSABLE = (400, 413, 415, 422, 429, 503)  # of the recording, or of the moment

router = APIRouter(tags=["voices"])


@router.post(
    "/voices", status_code=201, response_model=VoiceStored, openapi_extra=_FORM, responses=_errors(409, *_UNUSABLE)
)
async def upload(request: Request, service: StateDep) -> VoiceStored:
    """Keep a new voice. Its id is the name of the file, unless another is sent."""
    async with service.uploads.reserve(), read_upload(request) as form:
        voice_id = form.voice_id or form.file_name
        if not voice_id:
            raise Unprocessable("the file has no name: send a voice_id", code="bad_voice_id")
        await _store(service.voices.add, voice_id, form)
    _prepare_soon(service, voice_id)
    return VoiceStored(voice_id=voice_id, message="Voice uploaded successfully.")


@router.put(
    "/voices/{voice_id}", response_model=VoiceStored, openapi_extra=_FORM, responses=_errors(403, 404, *_UNUSABLE)
)
async def replace(voice_id: str, request: Request, service: StateDep) -> VoiceStored:
    """Let an uploaded voice be another: every worker uses the new recording from its next request."""
    async with service.uploads.reserve(), read_upload(request) as form:
        if form.voice_id not in (None, voice_id):
            raise Unprocessable(
                "voice_id in the form is not the one in the path: leave it out", code="invalid_parameter"
            )
        await _store(service.voices.replace, voice_id, form)
    _prepare_soon(service, voice_id)
    return VoiceStored(voice_id=voice_id, message="Voice replaced successfully.")


@router.get("/voices", response_model=list[str], responses=_errors())
async def ids(service: StateDep) -> list[str]:
    """The ids of all voices."""
    return await in_pool(_asking, service.voices.ids)


@router.get("/voices/{voice_id}", response_model=VoiceDetails, responses=_errors(404, *_UNUSABLE))
async def details(voice_id: str, service: StateDep) -> VoiceDetails:
    """What is known of a voice."""
    voice = await in_pool(_asking, lambda: service.voices.get(voice_id))
    return VoiceDetails(
        id=voice.voice_id,
        seconds=round(voice.seconds, 3),
        has_transcript=voice.has_transcript,
        preloaded=voice.preloaded,
        created=voice.created,
        sha256=voice.sha256,
    )


@router.delete("/voices/{voice_id}", response_model=VoiceDeleted, responses=_errors(403, 404, 422, 503))
async def delete(voice_id: str, service: StateDep) -> VoiceDeleted:
    """Forget an uploaded voice."""
    await in_pool(_asking, lambda: service.voices.delete(voice_id))
    return VoiceDeleted(message=f"Voice '{voice_id}' deleted successfully.")


async def _store(change: Callable[[str, bytes, str], object], voice_id: str, form: VoiceUpload) -> None:
    """Whole recordings are in memory here and nowhere before: no more of them than there are threads."""
    await in_pool(_storing, lambda: change(voice_id, form.recording.file.read(), form.transcript))


def _prepare_soon(service: AppState, voice_id: str) -> None:
    """Encode a voice ahead of its first request, here; other workers do so at theirs."""
    try:
        _preparing.submit(_prepare, service, voice_id)
    except RuntimeError as error:  # the voice is kept all the same, and encoded at its first request
        workshop.failed(error)


def _prepare(service: AppState, voice_id: str) -> None:
    try:
        resolved = service.host.cast(voice_id)
        assert resolved.voice is not None  # an id of the store
        service.host.engine.prepare_voice(resolved.voice, resolved.speaker)
        service.metrics.voice_encoded()
    except (EngineError, ServiceError) as error:
        _log.warning("voice %s is not prepared ahead of its first request: %s", voice_id, error)
    except Exception:
        _log.exception("voice %s is not prepared ahead of its first request", voice_id)
