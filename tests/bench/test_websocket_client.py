from __future__ import annotations

import base64
import struct
from typing import Any, cast

import pytest

from bench.load_test.trial import Address, Track
from bench.load_test.websocket_client import WebSocketStream, text_frame

pytestmark = pytest.mark.anyio


def frame(opcode: int, payload: bytes) -> bytes:
    """A server frame, unmasked."""
    size = len(payload)
    head = (
        bytes([size])
        if size < 126
        else struct.pack(">BH", 126, size)
        if size < 65536
        else struct.pack(">BQ", 127, size)
    )
    return bytes([0x80 | opcode]) + head + payload


def audio(samples: int) -> bytes:
    coded = base64.b64encode(bytes(4 * samples)).decode()
    return frame(1, f'{{"type":"audio_chunk","audio":"{coded}","sample_rate":24000,"index":0}}'.encode())


class Transport:
    def __init__(self) -> None:
        self.sent, self.aborted = b"", False

    def write(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.aborted = True


def make_stream() -> tuple[WebSocketStream, Transport, list[int]]:
    counted: list[int] = []
    stream, transport = (
        WebSocketStream(b"GET", {"text": "Hello."}, lambda now, samples: counted.append(samples)),
        Transport(),
    )
    stream._transport = cast(Any, transport)
    return stream, transport, counted


OPENED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
async def test_json_and_binary_audio_is_counted_at_any_split_of_the_bytes(step: int) -> None:
    stream, transport, counted = make_stream()
    messages = [frame(1, b'{"type":"audio_status","status":"started"}'), audio(1920), audio(1921), audio(1922)]
    data = OPENED + b"".join([*messages, frame(2, bytes(4 * 20_000)), frame(1, b'{"type":"completion"}')])
    for at in range(0, len(data), step):
        stream.data_received(data[at : at + step])
    assert counted == [1920, 1921, 1922, 20_000]
    assert (stream.status, stream.complete, transport.aborted) == (200, True, True)
    assert transport.sent == text_frame('{"text": "Hello."}')


async def test_the_status_of_an_error_is_its_code() -> None:
    stream, transport, counted = make_stream()
    stream.data_received(OPENED + frame(1, b'{"type":"error","code":"busy","message":"all slots are taken"}'))
    assert (stream.status, stream.complete, transport.aborted, counted) == ("busy", False, True, [])


async def test_a_refused_handshake_has_a_status() -> None:
    stream, transport, _ = make_stream()
    stream.data_received(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    assert (stream.status, transport.aborted, transport.sent) == (401, True, b"")


def test_the_handshake_requests_an_upgrade_and_sends_the_key() -> None:
    opening = Track("fixed", 2.0, "ws").request(Address("127.0.0.1", 80, "secret"), 0)
    assert opening.startswith(b"GET /ws HTTP/1.1\r\n")
    assert all(part in opening for part in (b"X-API-Key: secret", b"Upgrade: websocket", b"Connection: Upgrade"))
    assert Track("fixed", 2.0, "ws-binary").parameters(0)["binary"] is True
