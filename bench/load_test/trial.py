"""Definition of a trial: address, requests, load and duration. Plain data, sent to every client process."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from ..texts import natural_text, text_longer_than
from .audio_meters import METERS
from .websocket_client import upgrade

Loop = Literal["closed", "open", "burst"]
TrackName = Literal["fixed", "natural"]
PATH, WEBSOCKET_PATH = "/tts/generate", "/ws"
WEBSOCKET_FORMATS = ("ws", "ws-binary")  # audio as base64 in JSON, and as binary messages
FORMATS = (*METERS, *WEBSOCKET_FORMATS)  # formats whose duration can be counted without decoding


class NotLoopbackError(ValueError):
    """The address is not a loopback address."""


@dataclass(frozen=True)
class Address:
    """Loopback address of the service, and its API key."""

    host: str
    port: int
    key: str = field(default="", repr=False)

    @staticmethod
    def of(url: str, key: str) -> Address:
        """Parse a URL. Raises NotLoopbackError unless it is a loopback address: no other host is ever put under load.

        Host names are not resolved, except `localhost`.
        """
        parts = urlsplit(url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if parts.scheme != "http" or not loopback:
            raise NotLoopbackError(f"{url} is not the address of a service on this machine: use http://127.0.0.1:PORT")
        return Address(host, parts.port or 80, key)

    def head(self, method: str, target: str, connection: str = "close") -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{self.port}", f"Connection: {connection}"]
        if self.key:
            lines.append(f"X-API-Key: {self.key}")
        return "\r\n".join(lines).encode("latin-1")


@dataclass(frozen=True)
class Track:
    """What every request asks for. fixed: answers are cut at `seconds`; natural: they end with their text.

    format: one of FORMATS.
    """

    name: TrackName
    seconds: float
    format: str = "raw_pcm"
    voice_id: str | None = None

    @property
    def uses_websocket(self) -> bool:
        return self.format in WEBSOCKET_FORMATS

    def parameters(self, number: int) -> dict[str, Any]:
        """Parameters of request `number`; deterministic, including the seed."""
        format_parameters: dict[str, Any] = (
            {"binary": self.format == "ws-binary"} if self.uses_websocket else {"format": self.format}
        )
        parameters: dict[str, Any] = {**format_parameters, "seed": number}
        if self.voice_id is not None:
            parameters["voice_id"] = self.voice_id
        if self.name == "natural":
            return parameters | {"text": natural_text(number)}
        return parameters | {
            "text": text_longer_than(number, self.seconds),
            "max_audio_length_ms": round(self.seconds * 1000),
        }

    def request(self, address: Address, number: int) -> bytes:
        """First bytes of the connection: a complete HTTP request, or the WebSocket handshake."""
        if self.uses_websocket:
            return upgrade(address.head("GET", WEBSOCKET_PATH, connection="Upgrade"))
        body = json.dumps(self.parameters(number)).encode()
        head = address.head("POST", PATH)
        return head + f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Trial:
    """One load held for a while. closed loop: `load` clients, each sending its next request when the last has ended.
    open loop: `load` requests per second as a Poisson process, regardless of how many are active. burst: `load`
    requests at once, after the ramp.

    Clients of a closed loop start one after another during `ramp`. Requests sent in the following `seconds` are
    measured. The load continues until these have ended or `drain` is over; then remaining streams are aborted.
    """

    address: Address
    track: Track
    loop: Loop
    load: float
    ramp: float
    seconds: float
    drain: float
    seed: int = 0

    @property
    def max_seconds(self) -> float:
        """Longest possible duration in seconds."""
        return self.ramp + self.seconds + self.drain
