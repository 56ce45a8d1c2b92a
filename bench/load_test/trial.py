"""What one trial asks of all listeners together: a load, held for a while. Plain data, sent to every process."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from ..texts import natural_text, text_longer_than
from .audio_meters import METERS
from .websocket_client import upgrade

Loop = Literal["closed", "open"]
TrackName = Literal["fixed", "natural"]
PATH, WEBSOCKET_PATH = "/tts/generate", "/ws"
WEBSOCKET_FORMATS = ("ws", "ws-binary")  # audio as base64 in JSON, and as it is
FORMATS = (*METERS, *WEBSOCKET_FORMATS)  # those whose length in seconds can be told without decoding them


class NotLoopbackError(ValueError):
    """The address is not of this machine alone."""


@dataclass(frozen=True)
class Address:
    """Where the service is, on this machine, and the key to it."""

    host: str
    port: int
    key: str = field(default="", repr=False)

    @staticmethod
    def of(url: str, key: str) -> Address:
        """Raises NotLoopbackError for any other than a loopback address: nothing else is ever put under load.

        A name is not looked up: what `localhost` stands for is known.
        """
        parts = urlsplit(url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if parts.scheme != "http" or not loopback:
            raise NotLoopbackError(
                f"{url} is not the address of a service on this machine: load is put on http://127.0.0.1:PORT alone"
            )
        return Address(host, parts.port or 80, key)

    def head(self, method: str, target: str, connection: str = "close") -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{self.port}", f"Connection: {connection}"]
        if self.key:
            lines.append(f"X-API-Key: {self.key}")
        return "\r\n".join(lines).encode("latin-1")


@dataclass(frozen=True)
class Track:
    """What is asked for. fixed: every answer is cut at `seconds`; natural: each ends where its text does.

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
        """Of the request of that number: the same each time, its seed too."""
        how: dict[str, Any] = {"binary": self.format == "ws-binary"} if self.uses_websocket else {"format": self.format}
        wanted: dict[str, Any] = {**how, "seed": number}
        if self.voice_id is not None:
            wanted["voice_id"] = self.voice_id
        if self.name == "natural":
            return wanted | {"text": natural_text(number)}
        return wanted | {
            "text": text_longer_than(number, self.seconds),
            "max_audio_length_ms": round(self.seconds * 1000),
        }

    def request(self, address: Address, number: int) -> bytes:
        """What opens the connection: the whole of a request, or the handshake before it."""
        if self.uses_websocket:
            return upgrade(address.head("GET", WEBSOCKET_PATH, connection="Upgrade"))
        body = json.dumps(self.parameters(number)).encode()
        head = address.head("POST", PATH)
        return head + f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Trial:
    """closed: `load` listeners, each asking again as soon as it has heard its answer. open: `load` requests a second,
    at random moments (Poisson), however many still speak.

    Listeners of a closed loop come one after another during `ramp`. Requests sent in the `seconds` behind it are
    measured; the load goes on until these have ended, or `drain` is over: who then still listens, leaves.
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
    def longest(self) -> float:
        """Seconds."""
        return self.ramp + self.seconds + self.drain
