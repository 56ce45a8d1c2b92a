from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from csm_serve_client import ApiError, Busy, ServerFailed, Unavailable, errors
from csm_serve_client.responses import error_of

from app import errors as service

REQUEST = httpx.Request("GET", "http://user:secret@service.test/voices?api_key=secret")


def error(status: int, **answer: object) -> ApiError:
    found = error_of(httpx.Response(status, request=REQUEST, **answer))  # type: ignore[arg-type]
    assert isinstance(found, ApiError)
    return found


def subclasses(base: type[service.ServiceError]) -> list[type[service.ServiceError]]:
    below = [each for kind in base.__subclasses__() for each in subclasses(kind)]
    return [each for each in [base, *below] if each.__module__ == service.__name__]


@pytest.mark.parametrize("kind", subclasses(service.ServiceError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_service_has_an_exception_class(kind: type[service.ServiceError]) -> None:
    answered = kind("what to do")
    found = error(kind.status, json=answered.body, headers={**answered.headers, "X-Request-ID": "r1"})
    assert type(found) not in (ApiError, errors.CsmError)
    assert (found.status, found.code, found.detail, str(found)) == (
        kind.status,
        answered.code,
        "what to do",
        "what to do",
    )
    assert found.retry_after == answered.retry_after
    assert found.request_id == "r1"


def test_retry_after_may_be_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    wait = error(503, json={"detail": ""}, headers={"Retry-After": format_datetime(soon, usegmt=True)}).retry_after
    assert wait is not None
    assert 0 < wait <= 100
    past = error(503, json={"detail": ""}, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert past.retry_after == 0


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "²"])
def test_an_invalid_retry_after_is_none(value: str) -> None:
    assert error(429, json={}, headers=[(b"retry-after", value.encode())]).retry_after is None


@pytest.mark.parametrize(
    "body", [{"text": "<h1>Bad gateway"}, {"json": []}, {"json": {"error": "x"}}, {"content": b"\xff"}]
)
def test_a_proxy_error_is_reported_without_secrets(body: dict[str, object]) -> None:
    found = error(502, **body)
    assert type(found) is ServerFailed
    assert "502 Bad Gateway" in found.detail
    assert "service.test/voices" in found.detail
    assert "secret" not in found.detail


def test_an_unknown_status_is_an_api_error() -> None:
    assert type(error(499, json={"detail": "x"})) is ApiError
    assert isinstance(error(429), Busy)
    assert isinstance(error(503), Unavailable)
