from __future__ import annotations

import logging
from typing import Any

import pytest

from app.request_log import RequestLog, RequestRecord, record_of

pytestmark = pytest.mark.anyio


async def fine(scope: Any, receive: Any, send: Any) -> None:
    record_of(scope).voice = "amy"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("nobody expected this")


async def cut(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ValueError("nobody expected this")


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
async def test_a_safe_id_is_the_clients_own(call: Any, sent: bytes, kept: bool) -> None:
    client = await call(RequestLog(fine), "/x", headers=((b"x-request-id", sent),)).done()
    assert (client.headers["x-request-id"].encode("latin-1") == sent) == kept
    assert len(client.headers["x-request-id"]) > 0


async def test_every_request_leaves_one_line_without_its_query(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[RequestRecord] = []
    with caplog.at_level(logging.INFO, "app.requests"):
        await call(RequestLog(fine, [seen.append]), "/x", query=b"api_key=secret").done()
    (line,) = caplog.records
    assert "secret" not in str(line.__dict__)
    assert (seen[0].voice, seen[0].status, seen[0].outcome, seen[0].path) == ("amy", 200, "ok", "/x")


async def test_polls_are_not_worth_a_line(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "app.requests"):
        await call(RequestLog(fine), "/health").done()
    assert caplog.records == []


async def test_what_nobody_expected_is_a_500_with_the_id_of_its_line(
    call: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = await call(RequestLog(broken), "/x", headers=((b"x-request-id", b"me"),)).done()
    assert client.status == 500
    assert b"under the id me" in client.content
    assert b"nobody" not in client.content
    assert "nobody expected this" in caplog.text


async def test_what_broke_after_the_first_byte_is_raised_on(call: Any) -> None:
    seen: list[RequestRecord] = []
    with pytest.raises(ValueError, match="nobody"):
        await call(RequestLog(cut, [seen.append]), "/x").task
    assert seen[0].outcome == "failed"


def test_the_real_time_factor_is_time_for_a_second_of_audio() -> None:
    record = RequestRecord("id", "GET", "/", audio_seconds=4.0, speech_seconds=1.0)
    assert record.real_time_factor == 0.25
    assert RequestRecord("id", "GET", "/").real_time_factor is None
