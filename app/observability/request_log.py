"""What is known of each request: its id, how it went, and one line about it in the log."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger("app.requests")
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_QUIET_PATHS = frozenset({"/health", "/livez", "/readyz", "/metrics", "/system-status"})  # polled all day

Outcome = Literal["ok", "refused", "failed", "left", "stalled", "drained"]


class Observer(Protocol):
    """Is told of every request, on the event loop: it must not wait."""

    def admitted(self, record: RequestRecord) -> None:
        """It has its slot, and is being spoken."""

    def ended(self, record: RequestRecord) -> None:
        """Nothing about it changes any more."""


@dataclass
class RequestRecord:
    """One request, filled in by whoever learns something about it.

    outcome: ok; refused (4xx, 429, 503); failed (5xx, or cut after the first byte); left (the client went away);
        stalled (the client stopped reading); drained (cut because the service shut down).
    code: of the error that it ended with, as clients get it.
    admitted: it was given a slot. Whoever gives it calls `admit`.
    speech_seconds: from the start of the speech to the last of its audio, the wait for a slot not counted.
    underrun_seconds: the longest that the listener was without audio since its first; 0 is never.
    """

    request_id: str
    method: str
    path: str
    observers: Sequence[Observer] = field(default=(), repr=False)
    started: float = field(default_factory=time.monotonic)
    admitted: bool = False
    status: int | None = None
    outcome: Outcome | None = None
    code: str | None = None
    voice: str | None = None
    format: str | None = None
    first_audio_seconds: float | None = None
    audio_seconds: float | None = None
    speech_seconds: float | None = None
    underrun_seconds: float | None = None
    seconds: float = 0.0

    def admit(self) -> None:
        """It was given a slot. Called again it changes nothing."""
        if not self.admitted:
            self.admitted = True
            for observer in self.observers:
                observer.admitted(self)

    def end(self) -> None:
        """It is over: work out what is still open, and tell who wants to know. For whoever made the record."""
        self.seconds = time.monotonic() - self.started
        self.outcome = self.outcome or _outcome(self.status)
        for observer in self.observers:
            observer.ended(self)

    def part(self, number: int) -> RequestRecord:
        """The record of one text of several on this connection, admitted and ended on its own."""
        return RequestRecord(f"{self.request_id}.{number}", self.method, self.path, self.observers)

    @property
    def real_time_factor(self) -> float | None:
        """Time to make a second of audio, in seconds: below 1 is faster than it is heard."""
        return self.speech_seconds / self.audio_seconds if self.audio_seconds and self.speech_seconds else None

    def fields(self) -> dict[str, object]:
        first, factor = self.first_audio_seconds, self.real_time_factor
        return {
            "id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "outcome": self.outcome,
            "code": self.code,
            "voice": self.voice,
            "format": self.format,
            "first_audio_ms": None if first is None else round(first * 1000),
            "audio_seconds": None if self.audio_seconds is None else round(self.audio_seconds, 2),
            "real_time_factor": None if factor is None else round(factor, 3),
            "underrun_ms": round(self.underrun_seconds * 1000) if self.underrun_seconds else None,
            "ms": round(self.seconds * 1000),
        }


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that a scope belongs to."""
    record = scope["state"]["record"]
    assert isinstance(record, RequestRecord)
    return record


class RequestLogMiddleware:
    """The outermost layer: gives every request an id and a record, answers what nobody expected, tells how it ended.

    observers: beside the log itself.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer] = ()) -> None:
        self._app = app
        self._observers = (_Line(), *observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        method = scope.get("method", "WEBSOCKET")
        record = RequestRecord(_request_id(scope), method, scope["path"], self._observers)
        scope.setdefault("state", {})["record"] = record
        started = False

        async def identified(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                record.status = message["status"]
                header = (b"x-request-id", record.request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        try:
            await self._app(scope, receive, identified)
        except Exception:
            record.outcome = record.outcome or "failed"
            if started or scope["type"] != "http":
                raise  # the server cuts the connection
            _log.exception("request %s met an error that nobody expected", record.request_id)
            await _apologise(record, identified)
        except BaseException:  # a server cancels when its time to shut down is over
            record.outcome = record.outcome or "drained"
            raise
        finally:
            record.end()


async def _apologise(record: RequestRecord, send: Send) -> None:
    """The traceback goes to the log, the id of its line to the client."""
    detail = f"the service met an error of its own; its log tells more under the id {record.request_id}"
    body = json.dumps({"detail": detail, "code": "internal_error"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    """The client's own, if it is safe to send back and to write down; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return str(value.decode())
    return uuid.uuid4().hex


def _outcome(status: int | None) -> Outcome:
    if status is None or status < 400:
        return "ok"
    return "failed" if status >= 500 and status != 503 else "refused"


class _Line:
    """One line in the log for each request that ended."""

    def admitted(self, record: RequestRecord) -> None:
        pass

    def ended(self, record: RequestRecord) -> None:
        dull = record.path in _QUIET_PATHS or (record.path.startswith("/static/") and record.outcome == "ok")
        quiet = dull and record.outcome != "failed"
        _log.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": record.fields()})
