"""Request records: id, outcome and timings of each request, logged as one line and passed to observers."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access.api_keys import ApiKey
from .tracing import Trace, Tracing

_log = logging.getLogger("app.requests")
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_QUIET_PATHS = frozenset(  # polled: logged at DEBUG
    {"/health", "/livez", "/readyz", "/ping", "/metrics", "/system-status"}
)

_NO_STAGE: AbstractContextManager[None] = nullcontext()

Outcome = Literal["ok", "refused", "failed", "left", "stalled", "drained"]


class Observer(Protocol):
    """Called for every request, on the event loop: it must not block."""

    def admitted(self, record: RequestRecord) -> None:
        """The request has a slot."""

    def ended(self, record: RequestRecord) -> None:
        """The record is complete."""


@dataclass
class RequestRecord:
    """One request, filled in by the layers that handle it.

    outcome: ok; refused (4xx, 429, 503); failed (5xx, or cut after the first byte); left (the client disconnected);
        stalled (the client stopped reading); drained (cut because the service shut down).
    code: the error code sent to the client.
    key: the API key that was sent.
    admitted: it has got a slot; `admit` sets it.
    trace: None while tracing is off.
    speech_seconds: from getting a slot to the last audio.
    underrun_seconds: the longest gap after the first audio; 0 for none.
    latency: seconds of each span of a conversation's turn, by name.
    """

    request_id: str
    method: str
    path: str
    observers: Sequence[Observer] = field(default=(), repr=False)
    started: float = field(default_factory=time.monotonic)
    key: ApiKey | None = None
    admitted: bool = False
    trace: Trace | None = field(default=None, repr=False)
    status: int | None = None
    outcome: Outcome | None = None
    code: str | None = None
    voice: str | None = None
    format: str | None = None
    first_audio_seconds: float | None = None
    audio_seconds: float | None = None
    speech_seconds: float | None = None
    underrun_seconds: float | None = None
    latency: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    _part_numbers: Iterator[int] = field(default_factory=lambda: count(1), init=False, repr=False, compare=False)

    def admit(self) -> None:
        """Record that it has a slot. Further calls have no effect."""
        if not self.admitted:
            self.admitted = True
            for observer in self.observers:
                observer.admitted(self)

    def end(self) -> None:
        """Complete the record and notify the observers. Called by the creator of the record."""
        self.seconds = time.monotonic() - self.started
        self.outcome = self.outcome or _outcome(self.status)
        for observer in self.observers:
            observer.ended(self)
        if self.trace is not None:
            self.trace.end(self._attributes(), failed=self.outcome == "failed")

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time a part of a stage of the request's trace, while tracing is on."""
        return _NO_STAGE if self.trace is None else self.trace.stage(name)

    def next_part(self) -> RequestRecord:
        """A record for the next text or answer of this connection, admitted and ended separately."""
        number, trace = next(self._part_numbers), None if self.trace is None else self.trace.part("text")
        return RequestRecord(
            f"{self.request_id}.{number}", self.method, self.path, self.observers, key=self.key, trace=trace
        )

    @property
    def real_time_factor(self) -> float | None:
        """Seconds to generate a second of audio: below 1 is faster than real time."""
        return self.speech_seconds / self.audio_seconds if self.audio_seconds and self.speech_seconds else None

    def fields(self) -> dict[str, object]:
        first, factor = self.first_audio_seconds, self.real_time_factor
        return {
            "id": self.request_id,
            **({} if self.trace is None else {"trace": self.trace.traceparent.split("-")[1]}),
            "method": self.method,
            "path": self.path,
            "key": None if self.key is None else self.key.name,
            "status": self.status,
            "outcome": self.outcome,
            "code": self.code,
            "voice": self.voice,
            "format": self.format,
            "first_audio_ms": None if first is None else round(first * 1000),
            "audio_seconds": None if self.audio_seconds is None else round(self.audio_seconds, 2),
            "real_time_factor": None if factor is None else round(factor, 3),
            "underrun_ms": round(self.underrun_seconds * 1000) if self.underrun_seconds else None,
            **{f"{name}_ms": round(1000 * seconds) for name, seconds in self.latency.items()},
            "ms": round(self.seconds * 1000),
        }

    def _attributes(self) -> dict[str, str | int | float]:
        """Of the span, by the names of OpenTelemetry where it has some."""
        found: dict[str, str | int | float | None] = {
            "csm.request_id": self.request_id,
            "csm.key": None if self.key is None else self.key.name,
            "csm.outcome": self.outcome,
            "csm.voice": self.voice,
            "csm.format": self.format,
            "csm.audio_seconds": self.audio_seconds,
            "csm.first_audio_seconds": self.first_audio_seconds,
            "error.type": self.code,
            "http.request.method": self.method,
            "http.response.status_code": self.status,
            "url.path": self.path,
        }
        return {name: value for name, value in found.items() if value is not None}


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that a scope belongs to."""
    record = scope["state"]["record"]
    assert isinstance(record, RequestRecord)
    return record


class RequestLogMiddleware:
    """The outermost middleware: gives requests an id and a record, handles unexpected errors, and logs outcomes.

    observers: notified in addition to the log. tracing: None while it is off.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer] = (), tracing: Tracing | None = None) -> None:
        self._app = app
        self._tracing = tracing
        self._observers = (_LogObserver(), *observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        method = scope.get("method", "WEBSOCKET")
        record = RequestRecord(_request_id(scope), method, scope["path"], self._observers)
        scope.setdefault("state", {})["record"] = record
        headers = [(b"x-request-id", record.request_id.encode())]
        if self._tracing is not None and record.path not in _QUIET_PATHS:
            record.trace = self._tracing.begin(method, scope["headers"])
            headers.append((b"traceresponse", record.trace.traceparent.encode()))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                record.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            elif message["type"] == "websocket.accept":
                message = {**message, "headers": [*message.get("headers", ()), *headers[1:]]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            record.outcome = record.outcome or "failed"
            if started or scope["type"] != "http":
                raise  # the server closes the connection
            _log.exception("unexpected error in request %s", record.request_id)
            await _respond_internal_error(record, send_with_id)
        except BaseException:  # cancelled by the server at the end of its shutdown timeout
            record.outcome = record.outcome or "drained"
            raise
        finally:
            record.end()


async def _respond_internal_error(record: RequestRecord, send: Send) -> None:
    """Respond with the request id, under which the log has the traceback."""
    detail = f"internal error: see the service's log for request {record.request_id}"
    body = json.dumps({"detail": detail, "code": "internal_error"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    """The client's X-Request-ID if it is safe to echo and to log; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return str(value.decode())
    return uuid.uuid4().hex


def _outcome(status: int | None) -> Outcome:
    if status is None or status < 400:
        return "ok"
    return "failed" if status >= 500 and status != 503 else "refused"


class _LogObserver:
    """Logs one line for each request that ended."""

    def admitted(self, record: RequestRecord) -> None:
        pass

    def ended(self, record: RequestRecord) -> None:
        is_polled = record.path in _QUIET_PATHS or (record.path.startswith("/static/") and record.outcome == "ok")
        quiet = is_polled and record.outcome != "failed"
        _log.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": record.fields()})
