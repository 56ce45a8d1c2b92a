from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from app.observability.request_log import RequestLogMiddleware, RequestRecord, record_of

pytestmark = pytest.mark.anyio


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.admissions: list[RequestRecord] = []
        self.endings: list[RequestRecord] = []

    def admitted(self, record: RequestRecord) -> None:
        self.admissions.append(record)

    def ended(self, record: RequestRecord) -> None:
        self.endings.append(record)


async def fine(scope: Any, receive: Any, send: Any) -> None:
    record_of(scope).voice = "amy"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("an unexpected error")


async def cut(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ValueError("an unexpected error")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"abc-1.2:3", True),
        (b"x" * 128, True),
        (b"x" * 129, False),
        (b"a b", False),
        (b"a\tb", False),
        (b"\xff", False),
    ],
)
async def test_a_safe_request_id_of_the_client_is_kept(call: Any, sent: bytes, kept: bool) -> None:
    client = await call(RequestLogMiddleware(fine), "/x", headers=((b"x-request-id", sent),)).done()
    assert (client.headers["x-request-id"].encode("latin-1") == sent) == kept
    assert len(client.headers["x-request-id"]) > 0


async def test_every_request_is_logged_as_one_line_without_its_query(
    call: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    with caplog.at_level(logging.INFO, "app.requests"):
        await call(RequestLogMiddleware(fine, [seen]), "/x", query=b"api_key=secret").done()
    (line,) = caplog.records
    assert "secret" not in str(line.__dict__)
    (record,) = seen.endings
    assert (record.voice, record.status, record.outcome, record.path) == ("amy", 200, "ok", "/x")
    assert seen.admissions == []  # it asked for no slot


async def test_polled_routes_are_not_logged(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "app.requests"):
        await call(RequestLogMiddleware(fine), "/health").done()
    assert caplog.records == []


async def test_an_unexpected_error_is_a_500_with_the_request_id(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = await call(RequestLogMiddleware(broken), "/x", headers=((b"x-request-id", b"me"),)).done()
    assert client.status == 500
    assert b"for request me" in client.content
    assert b"unexpected" not in client.content
    assert "an unexpected error" in caplog.text


async def test_an_error_after_the_first_byte_is_raised(call: Any) -> None:
    seen = Seen()
    with pytest.raises(ValueError, match="unexpected"):
        await call(RequestLogMiddleware(cut, [seen]), "/x").task
    assert [each.outcome for each in seen.endings] == ["failed"]


async def test_a_request_cancelled_by_the_server_was_drained(call: Any, wait: Any) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        record_of(scope).admit()
        await asyncio.Event().wait()

    seen = Seen()
    task = call(RequestLogMiddleware(endless, [seen]), "/x").task
    await wait(lambda: seen.admissions)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen.admissions == seen.endings
    assert seen.endings[0].outcome == "drained"


def test_a_request_is_admitted_once_and_each_of_its_parts_separately() -> None:
    seen = Seen()
    record = RequestRecord("id", "WEBSOCKET", "/ws", [seen])
    _, part = record.next_part(), record.next_part()
    for each in (part, part, record):
        each.admit()
    part.end()
    assert [each.request_id for each in seen.admissions] == ["id.2", "id"]
    assert seen.endings == [part]
    assert (part.path, part.outcome) == ("/ws", "ok")


def test_the_real_time_factor_is_time_per_second_of_audio() -> None:
    record = RequestRecord("id", "GET", "/", audio_seconds=4.0, speech_seconds=1.0)
    assert record.real_time_factor == 0.25
    assert RequestRecord("id", "GET", "/").real_time_factor is None
