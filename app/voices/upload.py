"""The form that a recording is uploaded with, read with limits: one file, its words, its name."""

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

UPLOAD_SECONDS = 300.0  # 25 MB take 200 s over a line of 1 Mbit/s
_FIELDS = ("file", "transcript", "voice_id")
_EXAMPLE = "for example: curl -F file=@amy.wav -F 'transcript=The words in it.'"


class UploadTooSlow(BadRequest):
    """Its connection is closed: what still comes of the body belongs to no request."""

    code = "upload_too_slow"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Connection": "close"}


@dataclass(frozen=True)
class VoiceUpload:
    """recording: its bytes are on disk, but for small ones, and are gone with the context that gave this out.

    voice_id: None if none was sent.
    """

    recording: UploadFile
    transcript: str
    voice_id: str | None

    @property
    def file_name(self) -> str:
        return self.recording.filename or ""


@asynccontextmanager
async def read_upload(request: Request) -> AsyncIterator[VoiceUpload]:
    """The form in the body of a request. Its temporary file has no name, and is gone whatever happens.

    Raises UnsupportedMedia if it is another type, BadRequest if it is malformed, ends early or takes too long,
    Unprocessable if fields are missing, unknown or sent twice.
    """
    _check_type(request.headers.get("content-type", ""))
    try:
        with anyio.fail_after(UPLOAD_SECONDS):
            form = await _FormParser(request).parse()
    except MultiPartException as error:
        raise BadRequest(f"the form cannot be read: {error.message}", code="bad_form") from None
    except TimeoutError:
        raise UploadTooSlow(f"the upload took longer than {UPLOAD_SECONDS:g} seconds: send a smaller file") from None
    except ClientDisconnect:
        record_of(request.scope).outcome = "left"
        raise BadRequest("the client left before its upload was complete", code="incomplete_upload") from None
    try:
        yield _to_upload(form)
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Takes a form for whole at its last boundary only; until then every error closes its files."""

    def __init__(self, request: Request) -> None:
        stream = self._until_complete(request.stream())
        super().__init__(request.headers, stream, max_files=1, max_fields=len(_FIELDS), max_part_size=MAX_BYTES)
        self._complete = False

    def on_end(self) -> None:
        self._complete = True

    async def _until_complete(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            yield part
        if not self._complete:
            raise MultiPartException("its last boundary is missing")


def _check_type(content_type: str) -> None:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia(f"Content-Type must be multipart/form-data, {_EXAMPLE}")
    # Some of Python's codecs take time that grows with the square of the text, or raise what nobody expects.
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMedia("the charset of the form must be utf-8: send it as that, or leave it out")


def _to_upload(form: FormData) -> VoiceUpload:
    for name in form:
        if name not in _FIELDS:
            raise Unprocessable(
                f"{name[:60]!r} is no field of this form: it takes {', '.join(_FIELDS)}", code="invalid_parameter"
            )
        if len(form.getlist(name)) > 1:
            raise Unprocessable(f"{name} is there twice: send it once", code="invalid_parameter")
    recording, transcript, voice_id = (form.get(name) for name in _FIELDS)
    if not isinstance(recording, UploadFile):
        raise Unprocessable(f"file is missing: send the recording as a file in that field, {_EXAMPLE}", code="no_file")
    if isinstance(transcript, UploadFile) or isinstance(voice_id, UploadFile):
        raise Unprocessable("transcript and voice_id are text, not files", code="invalid_parameter")
    return VoiceUpload(recording, transcript or "", voice_id or None)
