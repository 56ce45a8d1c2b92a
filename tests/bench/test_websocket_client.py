from __future__ import annotations

import base64
import struct
from typing import Any, cast

import pytest

from bench.load_test.trial import Address, Track
from bench.load_test.websocket_client import WebSocketStream, text_frame

pytestmark = pytest.mark.anyio


def frame(opcode: int, payload: bytes) -> bytes:
    """As a server sends it: unmasked."""
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


def talk() -> tuple[WebSocketStream, Transport, list[int]]:
    heard: list[int] = []
    made, transport = (
        WebSocketStream(b"GET", {"text": "Hello."}, lambda now, samples: heard.append(samples)),
        Transport(),
    )
    made._transport = cast(Any, transport)
    return made, transport, heard


OPENED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
async def test_audio_is_counted_in_json_and_in_binary_wherever_it_is_cut(step: int) -> None:
    made, transport, heard = talk()
    told = [frame(1, b'{"type":"audio_status","status":"started"}'), audio(1920), audio(1921), audio(1922)]
    data = OPENED + b"".join([*told, frame(2, bytes(4 * 20_000)), frame(1, b'{"type":"completion"}')])
    for at in range(0, len(data), step):
        made.data_received(data[at : at + step])
    assert heard == [1920, 1921, 1922, 20_000]
    assert (made.status, made.whole, transport.aborted) == (200, True, True)
    assert transport.sent == text_frame('{"text": "Hello."}')


async def test_an_error_has_its_code_for_a_status() -> None:
    made, transport, heard = talk()
    made.data_received(OPENED + frame(1, b'{"type":"error","code":"busy","message":"all slots are taken"}'))
    assert (made.status, made.whole, transport.aborted, heard) == ("busy", False, True, [])


async def test_a_handshake_that_is_refused_is_an_answer() -> None:
    made, transport, _ = talk()
    made.data_received(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    assert (made.status, transport.aborted, transport.sent) == (401, True, b"")


def test_the_handshake_asks_for_a_socket_and_bears_the_key() -> None:
    opening = Track("fixed", 2.0, "ws").request(Address("127.0.0.1", 80, "secret"), 0)
    assert opening.startswith(b"GET /ws HTTP/1.1\r\n")
    assert all(part in opening for part in (b"X-API-Key: secret", b"Upgrade: websocket", b"Connection: Upgrade"))
    assert Track("fixed", 2.0, "ws-binary").parameters(0)["binary"] is True
