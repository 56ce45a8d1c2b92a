from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.errors import ServiceError
from app.middleware.error_handlers import response_of
from app.observability.request_log import RequestLogMiddleware
from app.voices import upload
from app.voices.upload import read_upload

pytestmark = pytest.mark.anyio

LARGE = b"\0\xff" * (2 << 20)  # more than is kept in memory


async def upload_app(scope: Any, receive: Any, send: Any) -> None:
    """Responds with the parsed form."""
    request = Request(scope, receive)
    try:
        async with read_upload(request) as form:
            size = len(form.recording.file.read())
            response = JSONResponse([form.file_name, size, form.transcript, form.voice_id])
    except ServiceError as error:
        response = response_of(error, scope["path"])
    await response(scope, receive, send)


def part(disposition: str, content: bytes) -> bytes:
    return f"--mark\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


FILE = part('name="file"; filename="amy.wav"', b"recording")
END = b"--mark--\r\n"


def sending(call: Any, *body: bytes, kind: str = "multipart/form-data; boundary=mark", **how: Any) -> Any:
    return call(
        RequestLogMiddleware(upload_app),
        "/",
        method="POST",
        headers=((b"content-type", kind.encode()),),
        body=body,
        **how,
    )


def open_files(folder: Path) -> list[str]:
    """Open files of this process in a directory, unnamed ones included."""
    gc.collect()
    names = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            names.append(os.readlink(f"/proc/self/fd/{each}"))
    return [name for name in names if name.startswith(str(folder))]


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Spool directory of uploads; must be empty after each test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert open_files(tmp_path) == []


async def test_a_form_is_parsed_from_chunks_of_any_size(call: Any) -> None:
    form = FILE + part('name="transcript"', "Grüße".encode()) + part('name="voice_id"', b"amy") + END
    for size in (1, 7, len(form)):
        chunks = [form[start : start + size] for start in range(0, len(form), size)]
        client = await sending(call, *chunks).done()
        assert client.content == '["amy.wav",9,"Grüße","amy"]'.encode()


async def test_missing_and_empty_fields(call: Any) -> None:
    assert (await sending(call, FILE + END).done()).content == b'["amy.wav",9,"",null]'
    assert (await sending(call, FILE + part('name="voice_id"', b"") + END).done()).content.endswith(b",null]")


async def test_a_large_file_is_read_completely(call: Any) -> None:
    client = await sending(call, part('name="file"; filename="x"', LARGE) + END).done()
    assert client.content == f'["x",{len(LARGE)},"",null]'.encode()


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (END, 422, "file is missing"),
        (part('name="file"', b"recording") + END, 422, "file is missing"),
        (part('name="transcript"', b"x") + END, 422, "file is missing"),
        (FILE + part('name="speed"', b"2") + END, 422, "'speed' is not a field"),
        (part('name="upload"; filename="a"', b"x") + END, 422, "'upload' is not a field"),
        (FILE + part('name="voice_id"', b"a") * 2 + END, 422, "voice_id is repeated"),
        (part('name="file"; filename="a"', b"x") * 2 + END, 400, "Maximum number of files is 1"),
        (part('name="transcript"; filename="a"', b"x") + END, 422, "file is missing"),
        (part('name="x"', b"a") * 4 + END, 400, "Maximum number of fields is 3"),
        (part('name="transcript"', b"x" * 50_000) + END, 400, "exceeded maximum size"),
        (part('filename="a"', b"x") + END, 400, '"name" must be provided'),
        (FILE, 400, "last boundary is missing"),
        (part('name="file"; filename="a"', LARGE)[:-2], 400, "last boundary is missing"),
        (b"", 400, "last boundary is missing"),
        (b"recording", 400, "cannot be parsed"),
        (b"--mark\r\n" + b"X: y\r\n" * 1000 + b"\r\n\r\n" + END, 400, "cannot be parsed"),
        (b"--mark\r\nX: " + b"y" * 100_000 + b"\r\n\r\n" + END, 400, "cannot be parsed"),
    ],
)
async def test_invalid_forms_are_rejected(call: Any, body: bytes, status: int, named: str) -> None:
    client = await sending(call, body).done()
    assert client.status == status
    assert named in client.content.decode().replace("\\", "")


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "audio/wav",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=mark",
        "multipart/form-data; boundary=mark; charset=punycode",
        "multipart/form-data; charset=utf-8; boundary=mark; charset=idna",
    ],
)
async def test_other_content_types_are_rejected_without_reading_the_body(call: Any, kind: str) -> None:
    client = await sending(call, FILE + END, kind=kind).done()
    assert client.status == 415
    assert client.received == 0


async def test_a_boundary_is_required(call: Any) -> None:
    for kind in ("multipart/form-data", f"multipart/form-data; boundary={'m' * 300}"):
        assert (await sending(call, FILE + END, kind=kind).done()).status == 400


async def test_a_client_that_disconnects_during_an_upload_leaves_no_files(
    call: Any, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "app.requests")
    client = sending(call, part('name="file"; filename="x"', LARGE)[:-9], stalls=True)
    while not open_files(spool):  # until it is spooled to disk
        await anyio.sleep(0.001)
    client.leave()
    await client.done()
    (line,) = [record for record in caplog.records if record.message == "request"]
    assert line.__dict__["fields"]["outcome"] == "left"


async def test_a_slow_upload_times_out(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "UPLOAD_SECONDS", 0.05)
    client = await sending(call, part('name="file"; filename="x"', LARGE)[:-9], stalls=True).done()
    assert client.status == 400
    assert b"upload_too_slow" in client.content
    assert client.headers["connection"] == "close"
