"""What the service answers, read: errors, voices, health, and the head of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx

from .errors import ApiError, StreamCut, UnexpectedAnswer, kind_of

_T = TypeVar("_T")
_LONGEST_ECHO = 80  # characters of somebody else's answer in a message of ours


@dataclass(frozen=True)
class Voice:
    """What is known of a voice. created: ISO 8601 in UTC. sha256: of the recording as it was uploaded."""

    id: str
    seconds: float
    has_transcript: bool
    preloaded: bool
    created: str
    sha256: str


@dataclass(frozen=True)
class Health:
    """How the service is.

    status: ok, degraded (some of its GPUs speak), loading, draining or failed.
    tts_engines: of each GPU (`gpu_0`) its state, progress from 0 to 1, and error.
    components: of each component beside the engines (`voice_decoder`) its state, error and the workers where it failed.
    """

    status: str
    tts_engines: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """It would speak now."""
        return self.status in ("ok", "degraded")


@dataclass(frozen=True)
class SpeechHead:
    """What is known of an answer before its first byte. engine: csm, or espeak-ng while there are no weights."""

    media_type: str
    sample_rate: int
    engine: str
    worker: str
    request_id: str


def error_of(response: httpx.Response) -> ApiError | UnexpectedAnswer:
    """The error that an answer is, its body already read."""
    if response.is_redirect:
        target = response.headers.get("location", "elsewhere")
        return UnexpectedAnswer(f"{_place(response)} redirects to {target[:_LONGEST_ECHO]}: use that address instead")
    status = response.status_code
    try:
        body = response.json()
        detail, code = str(body["detail"]), str(body.get("code", "unknown"))
    except (ValueError, KeyError, TypeError, AttributeError):
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "an unknown status"
        detail, code = f"{_place(response)} answered {status} {phrase}, not as csm-serve does", "unknown"
    return kind_of(status)(
        detail,
        status=status,
        code=code,
        retry_after=_retry_after(response.headers.get("retry-after", "")),
        request_id=response.headers.get("x-request-id"),
    )


def speech_head(response: httpx.Response) -> SpeechHead:
    """Raises UnexpectedAnswer if what comes is not audio, StreamCut if nobody could tell that it is whole."""
    headers = response.headers
    media_type = headers.get("content-type", "")
    if not media_type.startswith("audio/"):
        raise _unexpected(response, f"audio was asked for, and {media_type[:_LONGEST_ECHO] or 'nothing'} came")
    framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
    if response.http_version.startswith("HTTP/1") and not framed:
        raise StreamCut(
            f"the answer of {_place(response)} does not say where it ends, so nobody could tell whether it was whole: "
            "let the proxy in between speak HTTP/1.1"
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
        raise _unexpected(response, "a list of voices was asked for")
    return [str(each) for each in ids]


def read_voice(response: httpx.Response) -> Voice:
    return _as(response, lambda body: Voice(**{each.name: body[each.name] for each in fields(Voice)}), _json(response))


def read_stored(response: httpx.Response) -> str:
    return _as(response, lambda body: str(body["voice_id"]), _json(response))


def read_nothing(response: httpx.Response) -> None:
    """A success has no more to say."""


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
        raise _unexpected(response, "JSON was asked for") from None


def _as(response: httpx.Response, read: Callable[[Any], _T], body: Any) -> _T:
    try:
        return read(body)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unexpected(response, "its answer has another form") from None


def _unexpected(response: httpx.Response, why: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"{_place(response)} does not answer as csm-serve does ({why}): is the address right?")


def _place(response: httpx.Response) -> str:
    """Without what may be secret: the user's name and password, and the query."""
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
