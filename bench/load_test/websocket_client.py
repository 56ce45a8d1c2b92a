"""Just enough of RFC 6455 to listen: one text said to /ws, its audio counted and not kept."""

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
_AUDIO_BEGINS = b'"audio":"'
_FLOAT_BYTES = 4


def upgrade(head: bytes) -> bytes:
    """A request's head (address.head, without its last line) as the beginning of a WebSocket."""
    key = base64.b64encode(os.urandom(16))
    return head + b"\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + _HEAD_END


def text_frame(text: str) -> bytes:
    """A client's text message; masked, as the protocol wants it, with a key of zeros."""
    data = text.encode()
    short = len(data) < 126
    head = struct.pack(">BB", _FINAL | _TEXT, _MASKED | (len(data) if short else 126))
    return head + (b"" if short else struct.pack(">H", len(data))) + bytes(4) + data


class WebSocketStream(AudioConnection):
    """Says one text once the connection stands, and listens to its completion.

    status: of the handshake if it is refused, 200 once audio may come, or the code of the error that came instead.
    """

    def __init__(self, handshake: bytes, message: dict[str, Any], on_audio: OnAudio) -> None:
        super().__init__(handshake, on_audio)
        self._message = text_frame(json.dumps(message))
        self._data = bytearray()
        self._open = False

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._data += data
        if not self._open and not self._begin():
            return
        while (frame := self._take_frame()) is not None:
            self._hear(now, *frame)
        if self.whole:
            self.leave()

    def _begin(self) -> bool:
        end = self._data.find(_HEAD_END)
        if end < 0:
            return False
        self.status, _ = parse_head(bytes(self._data[:end]))
        if self.status != 101:
            self.leave()
            return False
        del self._data[: end + len(_HEAD_END)]
        self.status, self._open = 200, True
        self.send(self._message)
        return True

    def _take_frame(self) -> tuple[int, bytes] | None:
        """Opcode and payload of the next message; the service sends each in one frame."""
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

    def _hear(self, now: float, opcode: int, payload: bytes) -> None:
        if opcode == _BINARY:
            self.on_audio(now, len(payload) // _FLOAT_BYTES)
        elif opcode == _TEXT:
            begins = payload.find(_AUDIO_BEGINS, 0, 60)
            if begins >= 0:
                begins += len(_AUDIO_BEGINS)
                coded = payload.index(b'"', begins) - begins  # base64: four characters for three bytes
                padding = payload.count(b"=", begins + coded - 2, begins + coded)
                self.on_audio(now, (coded // 4 * 3 - padding) // _FLOAT_BYTES)
                return
            said = json.loads(payload)
            if said["type"] == "error":
                self.status = str(said["code"])
                self.leave()
            self.whole = said["type"] == "completion"
        elif opcode == _CLOSE:
            self.leave()
