"""Parses the service's responses: errors, voices, health, and the headers of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx

from .errors import ApiError, StreamCut, UnexpectedAnswer, error_class_of

_T = TypeVar("_T")
_MAX_QUOTE = 80  # characters of another server's response in an error message


@dataclass(frozen=True)
class Voice:
    """Properties of a voice. created: ISO 8601 in UTC. sha256: of the recording as uploaded."""

    id: str
    seconds: float
    has_transcript: bool
    preloaded: bool
    created: str
    sha256: str


@dataclass(frozen=True)
class StoredVoice:
    """The response to an upload. warnings: quality problems of the recording, each a sentence."""

    voice_id: str
    warnings: list[str]


@dataclass(frozen=True)
class Health:
    """Health of the service.

    status: ok, degraded (some of its GPUs or parts have failed), loading, draining or failed.
    tts_engines: of each GPU (`gpu_0`) its state, progress from 0 to 1, and error.
    components: of each component beside the engines (`voice_decoder`) its state, error and the workers where it failed.
    """

    status: str
    tts_engines: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether the service accepts speech requests now."""
        return self.status in ("ok", "degraded")


@dataclass(frozen=True)
class SpeechHead:
    """Headers of an audio response. engine: csm, or kokoro or espeak-ng without weights."""

    media_type: str
    sample_rate: int
    engine: str
    worker: str
    request_id: str


def error_of(response: httpx.Response) -> ApiError | UnexpectedAnswer:
    """Convert an error response, whose body has been read, to an exception."""
    if response.is_redirect:
        target = response.headers.get("location", "elsewhere")
        return UnexpectedAnswer(
            f"{_redacted_url(response)} redirects to {target[:_MAX_QUOTE]}: use that address instead"
        )
    status = response.status_code
    try:
        body = response.json()
        detail, code = str(body["detail"]), str(body.get("code", "unknown"))
    except (ValueError, KeyError, TypeError, AttributeError):
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "an unknown status"
        detail, code = f"{_redacted_url(response)} responded {status} {phrase}, not as csm-serve does", "unknown"
    return error_class_of(status)(
        detail,
        status=status,
        code=code,
        retry_after=_retry_after(response.headers.get("retry-after", "")),
        request_id=response.headers.get("x-request-id"),
    )


def speech_head(response: httpx.Response) -> SpeechHead:
    """Raises UnexpectedAnswer if the response holds no audio, StreamCut if it has no framing to detect its end."""
    headers = response.headers
    media_type = headers.get("content-type", "")
    if not media_type.startswith(("audio/", "text/event-stream")):
        raise _unexpected(response, f"expected audio, got {media_type[:_MAX_QUOTE] or 'no content type'}")
    framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
    if response.http_version.startswith("HTTP/1") and not framed:
        raise StreamCut(
            f"the response of {_redacted_url(response)} has no length and is not chunked, so that an aborted stream "
            "would look complete: make the proxy in between use HTTP/1.1"
        )
    return SpeechHead(
        media_type=media_type,
        sample_rate=_as(response, int, headers.get("x-sample-rate", "24000")),
        engine=headers.get("x-tts-engine", ""),
        worker=headers.get("x-worker-id", ""),
        request_id=headers.get("x-request-id", ""),
    )


def read_ids(response: httpx.Response) -> list[str]:
    ids = _json(response)
    if not isinstance(ids, list):
        raise _unexpected(response, "expected a list of voices")
    return [str(each) for each in ids]


def read_voice(response: httpx.Response) -> Voice:
    return _as(response, lambda body: Voice(**{each.name: body[each.name] for each in fields(Voice)}), _json(response))


def read_stored(response: httpx.Response) -> StoredVoice:
    return _as(
        response,
        lambda body: StoredVoice(str(body["voice_id"]), [str(each) for each in body.get("warnings", [])]),
        _json(response),
    )


def read_nothing(response: httpx.Response) -> None:
    """Ignores the body of a successful response."""


def read_health(response: httpx.Response) -> Health:
    return _as(
        response,
        lambda body: Health(body["status"], dict(body["tts_engines"]), dict(body.get("components", {}))),
        _json(response),
    )


def read_object(response: httpx.Response) -> dict[str, Any]:
    return _as(response, lambda body: {**body}, _json(response))


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise _unexpected(response, "expected JSON") from None


def _as(response: httpx.Response, read: Callable[[Any], _T], body: Any) -> _T:
    try:
        return read(body)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unexpected(response, "a field is missing or invalid") from None


def _unexpected(response: httpx.Response, reason: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{_redacted_url(response)} does not respond as csm-serve does ({reason}): check the address"
    )


def _redacted_url(response: httpx.Response) -> str:
    """The URL without user name, password and query, which may be secret."""
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}"


def _retry_after(value: str) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
