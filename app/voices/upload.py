"""Parses the multipart form of a voice upload, with limits: a file, a transcript and a voice id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ..errors import BadRequest, Unprocessable, UnsupportedMedia
from ..observability.request_log import record_of
from .transcript import MAX_BYTES

UPLOAD_SECONDS = 300.0  # 25 MB take 200 s at 1 Mbit/s
_FIELDS = ("file", "transcript", "voice_id")
_EXAMPLE = "for example: curl -F file=@amy.wav -F 'transcript=Its words.'"


class UploadTooSlow(BadRequest):
    """The upload timed out. The connection is closed, because the rest of the body is still to come."""

    code = "upload_too_slow"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Connection": "close"}


@dataclass(frozen=True)
class VoiceUpload:
    """A parsed upload form.

    recording: spooled to disk unless small; closed at the end of `read_upload`'s context.
    voice_id: None if the form has none.
    """

    recording: UploadFile
    transcript: str
    voice_id: str | None

    @property
    def file_name(self) -> str:
        return self.recording.filename or ""


@asynccontextmanager
async def read_upload(request: Request) -> AsyncIterator[VoiceUpload]:
    """Parse the form in a request's body. Its temporary file is unnamed, and always removed.

    Raises UnsupportedMedia for another content type, BadRequest if the form is malformed, incomplete or too slow,
    Unprocessable if fields are missing, unknown or repeated.
    """
    async with read_form(request, len(_FIELDS)) as form:
        yield _to_upload(form)


@asynccontextmanager
async def read_form(request: Request, max_fields: int) -> AsyncIterator[FormData]:
    """Parse a form with at most one file and max_fields other fields, each of at most MAX_BYTES.

    Raises UnsupportedMedia for another content type, BadRequest if the form is malformed, incomplete or too slow.
    """
    _check_type(request.headers.get("content-type", ""))
    try:
        with anyio.fail_after(UPLOAD_SECONDS):
            form = await _FormParser(request, max_fields).parse()
    except MultiPartException as error:
        raise BadRequest(f"the form cannot be parsed: {error.message}", code="bad_form") from None
    except TimeoutError:
        raise UploadTooSlow(f"the upload took longer than {UPLOAD_SECONDS:g} seconds: send a smaller file") from None
    except ClientDisconnect:
        record_of(request.scope).outcome = "left"
        raise BadRequest("the client disconnected before its upload was complete", code="incomplete_upload") from None
    try:
        yield form
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Multipart parser that requires the last boundary, and closes its files on every earlier error."""

    def __init__(self, request: Request, max_fields: int) -> None:
        stream = self._until_complete(request.stream())
        super().__init__(request.headers, stream, max_files=1, max_fields=max_fields, max_part_size=MAX_BYTES)
        self._complete = False

    def on_end(self) -> None:
        self._complete = True

    async def _until_complete(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            yield part
        if not self._complete:
            raise MultiPartException("the last boundary is missing")


def _check_type(content_type: str) -> None:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia(f"Content-Type must be multipart/form-data, {_EXAMPLE}")
    # Some of Python's codecs take quadratic time, or raise undocumented exceptions.
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMedia("the charset of the form must be utf-8: use it, or leave it out")


def _to_upload(form: FormData) -> VoiceUpload:
    for name in form:
        if name not in _FIELDS:
            raise Unprocessable(
                f"{name[:60]!r} is not a field of this form: use {', '.join(_FIELDS)}", code="invalid_parameter"
            )
        if len(form.getlist(name)) > 1:
            raise Unprocessable(f"{name} is repeated: send it once", code="invalid_parameter")
    recording, transcript, voice_id = (form.get(name) for name in _FIELDS)
    if not isinstance(recording, UploadFile):
        raise Unprocessable(f"file is missing: send the recording as a file in that field, {_EXAMPLE}", code="no_file")
    if isinstance(transcript, UploadFile) or isinstance(voice_id, UploadFile):
        raise Unprocessable("transcript and voice_id are text, not files", code="invalid_parameter")
    return VoiceUpload(recording, transcript or "", voice_id or None)
