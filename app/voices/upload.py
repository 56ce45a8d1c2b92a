"""Parses the multipart form of a voice upload, with limits: files, transcripts and a voice id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ..errors import BadRequest, Unprocessable, UnsupportedMedia
from ..observability.request_log import record_of
from .transcript import MAX_BYTES

UPLOAD_SECONDS = 300.0  # 25 MB take 200 s at 1 Mbit/s


@dataclass(frozen=True)
class UploadFields:
    """The names of a form's fields.

    others: text fields that the form may hold beside these three. max_files: above 1 the first two may be repeated.
    """

    file: str = "file"
    transcript: str = "transcript"
    voice_id: str = "voice_id"
    others: tuple[str, ...] = ()
    max_files: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        return (self.file, self.transcript, self.voice_id, *self.others)

    @property
    def repeated(self) -> tuple[str, ...]:
        return (self.file, self.transcript) if self.max_files > 1 else ()

    @property
    def example(self) -> str:
        return f"for example: curl -F {self.file}=@amy.wav -F '{self.transcript}=Its words.'"


_VOICES_FORM = UploadFields()


class UploadTooSlow(BadRequest):
    """The upload timed out. The connection is closed, because the rest of the body is still to come."""

    code = "upload_too_slow"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Connection": "close"}


@dataclass(frozen=True)
class VoiceUpload:
    """A parsed upload form.

    recordings: spooled to disk unless small; closed at the end of `read_upload`'s context.
    voice_id: None if the form has none.
    others: the form's other fields, those it has.
    """

    recordings: tuple[UploadFile, ...]
    transcripts: tuple[str, ...]
    voice_id: str | None
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def recording(self) -> UploadFile:
        return self.recordings[0]

    @property
    def transcript(self) -> str:
        return self.transcripts[0] if self.transcripts else ""

    @property
    def file_name(self) -> str:
        return self.recording.filename or ""


@asynccontextmanager
async def read_upload(request: Request, fields: UploadFields = _VOICES_FORM) -> AsyncIterator[VoiceUpload]:
    """Parse the form in a request's body. Its temporary file is unnamed, and always removed.

    Raises UnsupportedMedia for another content type, BadRequest if the form is malformed, incomplete or too slow,
    Unprocessable if fields are missing, unknown or repeated.
    """
    max_fields = len(fields.names) + fields.max_files - 1
    async with read_form(request, max_fields, fields.example, fields.max_files) as form:
        yield _to_upload(form, fields)


@asynccontextmanager
async def read_form(
    request: Request, max_fields: int, example: str = _VOICES_FORM.example, max_files: int = 1
) -> AsyncIterator[FormData]:
    """Parse a form with at most max_files files and max_fields other fields, each of at most MAX_BYTES.

    example: how to send one, for error messages.

    Raises UnsupportedMedia for another content type, BadRequest if the form is malformed, incomplete or too slow.
    """
    _check_type(request.headers.get("content-type", ""), example)
    try:
        with anyio.fail_after(UPLOAD_SECONDS):
            form = await _FormParser(request, max_fields, max_files).parse()
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

    def __init__(self, request: Request, max_fields: int, max_files: int) -> None:
        stream = self._until_complete(request.stream())
        super().__init__(request.headers, stream, max_files=max_files, max_fields=max_fields, max_part_size=MAX_BYTES)
        self._complete = False

    def on_end(self) -> None:
        self._complete = True

    async def _until_complete(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            yield part
        if not self._complete:
            raise MultiPartException("the last boundary is missing")


def _check_type(content_type: str, example: str) -> None:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia(f"Content-Type must be multipart/form-data, {example}")
    # Some of Python's codecs take quadratic time, or raise undocumented exceptions.
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMedia("the charset of the form must be utf-8: use it, or leave it out")


def _to_upload(form: FormData, fields: UploadFields) -> VoiceUpload:
    for name in form:
        if name not in fields.names:
            raise Unprocessable(
                f"{name[:60]!r} is not a field of this form: use {', '.join(fields.names)}", code="invalid_parameter"
            )
        if len(form.getlist(name)) > 1 and name not in fields.repeated:
            raise Unprocessable(f"{name} is repeated: send it once", code="invalid_parameter")
    recordings = form.getlist(fields.file)
    if not recordings or not all(isinstance(each, UploadFile) for each in recordings):
        raise Unprocessable(
            f"{fields.file} is missing: send the recording as a file in that field, {fields.example}", code="no_file"
        )
    texts: dict[str, str] = {}
    for name, value in form.multi_items():
        if name == fields.file:
            continue
        if isinstance(value, UploadFile):
            raise Unprocessable(f"{name} is text, not a file", code="invalid_parameter")
        texts[name] = value
    return VoiceUpload(
        tuple(each for each in recordings if isinstance(each, UploadFile)),
        tuple(str(each) for each in form.getlist(fields.transcript)),
        texts.get(fields.voice_id) or None,
        {name: texts[name] for name in fields.others if name in texts},
    )
