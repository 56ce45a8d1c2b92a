"""Minimal WebSocket client (RFC 6455) for load tests: sends one text to /ws and counts its audio."""

from __future__ import annotations

import base64
import json
import os
import struct
import time
from typing import Any

from .http_client import AudioConnection, OnAudio, parse_head

_TEXT, _BINARY, _CLOSE = 1, 2, 8
_FINAL, _MASKED = 0x80, 0x80
_HEAD_END = b"\r\n\r\n"
_AUDIO_KEY = b'"audio":"'
_FLOAT_BYTES = 4


def upgrade(head: bytes) -> bytes:
    """Complete a request head from `Address.head` to a WebSocket handshake."""
    key = base64.b64encode(os.urandom(16))
    return head + b"\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + _HEAD_END


def text_frame(text: str) -> bytes:
    """A client text message, masked with a key of zeros as the protocol requires."""
    data = text.encode()
    short = len(data) < 126
    head = struct.pack(">BB", _FINAL | _TEXT, _MASKED | (len(data) if short else 126))
    return head + (b"" if short else struct.pack(">H", len(data))) + bytes(4) + data


class WebSocketStream(AudioConnection):
    """Sends one text after the handshake and reads until its completion message.

    status: HTTP status of a refused handshake, 200 after an accepted one, or the code of an error message.
    """

    def __init__(self, handshake: bytes, message: dict[str, Any], on_audio: OnAudio) -> None:
        super().__init__(handshake, on_audio)
        self._message = text_frame(json.dumps(message))
        self._data = bytearray()
        self._open = False

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._data += data
        if not self._open and not self._read_handshake():
            return
        while (frame := self._next_frame()) is not None:
            self._handle_frame(now, *frame)
        if self.complete:
            self.abort()

    def _read_handshake(self) -> bool:
        end = self._data.find(_HEAD_END)
        if end < 0:
            return False
        self.status, _ = parse_head(bytes(self._data[:end]))
        if self.status != 101:
            self.abort()
            return False
        del self._data[: end + len(_HEAD_END)]
        self.status, self._open = 200, True
        self.send(self._message)
        return True

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Opcode and payload of the next message, or None. The service sends every message in one frame."""
        if len(self._data) < 2:
            return None
        length, at = self._data[1], 2
        if length >= 126:
            at = 4 if length == 126 else 10
            if len(self._data) < at:
                return None
            length = int.from_bytes(self._data[2:at], "big")
        if len(self._data) < at + length:
            return None
        opcode, payload = self._data[0] & 0x0F, bytes(memoryview(self._data)[at : at + length])
        del self._data[: at + length]
        return opcode, payload

    def _handle_frame(self, now: float, opcode: int, payload: bytes) -> None:
        if opcode == _BINARY:
            self.on_audio(now, len(payload) // _FLOAT_BYTES)
        elif opcode == _TEXT:
            begins = payload.find(_AUDIO_KEY, 0, 60)
            if begins >= 0:
                begins += len(_AUDIO_KEY)
                coded = payload.index(b'"', begins) - begins  # base64: four characters for three bytes
                padding = payload.count(b"=", begins + coded - 2, begins + coded)
                self.on_audio(now, (coded // 4 * 3 - padding) // _FLOAT_BYTES)
                return
            event = json.loads(payload)
            if event["type"] == "error":
                self.status = str(event["code"])
                self.abort()
            self.complete = event["type"] == "completion"
        elif opcode == _CLOSE:
            self.abort()
