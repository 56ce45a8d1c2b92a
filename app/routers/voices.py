"""Upload, replace, list and delete voices (API.md section 2)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import APIRouter, Request

from engine import MachineLimits

from ..audio.thread_pool import run_in_executor, thread_pool
from ..errors import Unprocessable
from ..schemas.errors import error_responses
from ..schemas.forms import recording_form
from ..schemas.voices import VoiceDeleted, VoiceDetails, VoiceStored
from ..state import AppState, StateDep
from ..voices.joined_recording import JoinedRecording, RecordingFile
from ..voices.recording_format import FORMATS
from ..voices.store import Voice, VoiceStore
from ..voices.upload import VoiceUpload, read_upload
from ..voices.voice_id import RULES, canonical_id

# Separate executors, so that speech and control routes never wait for recordings, nor lists for uploads.
_query_executor = ThreadPoolExecutor(4, thread_name_prefix="query-voices")
# One thread per recording that is decoded concurrently; each is decoded in a separate process.
_store_executor = ThreadPoolExecutor(min(2, MachineLimits().cores().threads()), thread_name_prefix="store-voice")

_Result = TypeVar("_Result")

_FORM = recording_form(
    "file",
    f"The recording: {FORMATS}.",
    {
        "transcript": {"type": "string", "description": "The words spoken in it."},
        "voice_id": {"type": "string", "description": f"The default is the file name; {RULES}."},
    },
)


_UPLOAD_ERRORS = (400, 413, 415, 422, 429, 503)

router = APIRouter(tags=["voices"])


@router.post(
    "/voices",
    status_code=201,
    response_model=VoiceStored,
    openapi_extra=_FORM,
    responses=error_responses(401, 409, *_UPLOAD_ERRORS),
)
async def upload(request: Request, state: StateDep) -> VoiceStored:
    """Store a new voice. Its id is the file name unless voice_id is sent."""
    async with state.uploads.reserve(), read_upload(request) as form:
        voice_id = form.voice_id or form.file_name
        if not voice_id:
            raise Unprocessable("the file has no name: send a voice_id", code="bad_voice_id")
        voice = await store_recording(state.voices.add, voice_id, form)
    await prepare_ahead(state, voice.voice_id)
    return VoiceStored(voice_id=voice.voice_id, message="Voice uploaded successfully.", warnings=list(voice.warnings))


@router.put(
    "/voices/{voice_id}",
    response_model=VoiceStored,
    openapi_extra=_FORM,
    responses=error_responses(401, 403, 404, *_UPLOAD_ERRORS),
)
async def replace(voice_id: str, request: Request, state: StateDep) -> VoiceStored:
    """Replace the recording of an uploaded voice: every worker uses the new one from its next request on."""
    async with state.uploads.reserve(), read_upload(request) as form:
        if form.voice_id is not None and canonical_id(form.voice_id) != canonical_id(voice_id):
            raise Unprocessable(
                "voice_id in the form differs from the one in the path: omit it", code="invalid_parameter"
            )
        voice = await store_recording(state.voices.replace, voice_id, form)
    await prepare_ahead(state, voice.voice_id)
    return VoiceStored(voice_id=voice.voice_id, message="Voice replaced successfully.", warnings=list(voice.warnings))


@router.get("/voices", response_model=list[str], responses=error_responses(401))
async def ids(state: StateDep) -> list[str]:
    """The ids of all voices."""
    return await query_voices(state.voices.ids)


@router.get("/voices/{voice_id}", response_model=VoiceDetails, responses=error_responses(401, 404, *_UPLOAD_ERRORS))
async def details(voice_id: str, state: StateDep) -> VoiceDetails:
    """Details of a voice."""
    voice = await query_voices(lambda: state.voices.get(voice_id))
    return VoiceDetails(
        id=voice.voice_id,
        seconds=round(voice.seconds, 3),
        has_transcript=voice.has_transcript,
        preloaded=voice.preloaded,
        created=voice.created,
        sha256=voice.sha256,
    )


@router.delete("/voices/{voice_id}", response_model=VoiceDeleted, responses=error_responses(401, 403, 404, 422, 503))
async def delete(voice_id: str, state: StateDep) -> VoiceDeleted:
    """Delete an uploaded voice."""
    await query_voices(lambda: state.voices.delete(voice_id))
    return VoiceDeleted(message=f"Voice '{canonical_id(voice_id)}' deleted successfully.")


async def query_voices(query: Callable[[], _Result]) -> _Result:
    """Run a query of the voice store in a thread."""
    return await run_in_executor(_query_executor, query)


async def store_recording(store: Callable[[str, bytes, str], Voice], voice_id: str, form: VoiceUpload) -> Voice:
    """Read and store a recording in a thread, so that no more recordings are in memory than there are threads."""
    return await run_in_executor(_store_executor, lambda: store(voice_id, form.recording.file.read(), form.transcript))


async def store_joined(voices: VoiceStore, voice_id: str, form: VoiceUpload) -> tuple[Voice, JoinedRecording]:
    """The same for the recordings of a form, which are joined."""

    def store() -> tuple[Voice, JoinedRecording]:
        files = [
            RecordingFile(each.filename or f"file {number}", each.file.read)
            for number, each in enumerate(form.recordings, 1)
        ]
        joined = voices.join(files, form.transcripts)
        return voices.add(voice_id, joined.recording, joined.transcript), joined

    return await run_in_executor(_store_executor, store)


async def prepare_ahead(state: AppState, voice_id: str) -> None:
    """Have a voice encoded ahead of its first request, in the background."""
    try:
        await state.pool.prepare_voice(voice_id)
    except RuntimeError as error:  # no thread: the voice is stored anyway, and encoded at its first request
        thread_pool.report_failure(error)
