"""Connection settings of a client: address, API key, timeouts, retries, and translation of httpx's errors."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from .environment import address_and_key
from .errors import ApiError, Busy, CsmError, Misconfigured, StreamCut, Unavailable, Unreachable

CONNECT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 120.0  # covers the wait for a slot, by default 30 s, and for the first audio after it
_MAX_DELAY = 60.0  # no retry after a longer Retry-After
_FIRST_DELAY = 0.5  # without Retry-After; doubled on each retry


@dataclass(frozen=True)
class Server:
    """Address and API key of a service. Raises Misconfigured if either is invalid."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:  # its message may contain a password
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise Misconfigured(
                "the address must have the form http://localhost:8000 or https://example.org/speech, without ? and #; "
                f"it begins with {self.base_url[:7]!r}"
            )
        if self.api_key is not None and not self.api_key.isprintable():
            raise Misconfigured("the API key contains characters that a header cannot contain, such as a line break")

    @staticmethod
    def of(base_url: str | None, api_key: str | None) -> Server:
        """Fill in None from the environment or `.env`: CSM_URL, or HOST and PORT; the first key of API_KEY."""
        if base_url is None or api_key is None:
            address, key = address_and_key()
            base_url = address if base_url is None else base_url
            api_key = key if api_key is None else api_key
        return Server(base_url.strip(), api_key or None)

    @property
    def redacted_url(self) -> str:
        """The address without user name and password."""
        url = httpx.URL(self.base_url)
        return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path.rstrip('/')}"

    @property
    def is_loopback(self) -> bool:
        return _is_loopback(httpx.URL(self.base_url).host)

    def http_options(self, timeout: float) -> dict[str, Any]:
        """Keyword arguments of httpx's clients. Redirects stay off, so that no other server gets the key."""
        headers: dict[str, str | bytes] = {"User-Agent": "csm-serve-client", "Accept-Encoding": "identity"}
        if self.api_key is not None:
            headers["X-API-Key"] = self.api_key.encode()
        return {
            "base_url": self.base_url,
            "headers": headers,
            "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            "trust_env": not self.is_loopback,  # no proxy for loopback
        }

    @contextmanager
    def translate_errors(self, *, streaming: bool = False) -> Iterator[None]:
        """Raise httpx's errors as CsmError. streaming: the audio has begun."""
        try:
            yield
        except httpx.RequestError as error:
            raise self._error(error, streaming) from error

    def _error(self, error: httpx.RequestError, streaming: bool) -> CsmError:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return Unreachable(
                f"cannot connect to {self.redacted_url} ({reason}): check that csm-serve is running, and CSM_URL"
            )
        if streaming:
            return StreamCut(f"the stream was aborted: the audio is incomplete ({reason})")
        if isinstance(error, httpx.TimeoutException):
            return Unreachable(f"{self.redacted_url} did not respond in time ({reason})")
        return Unreachable(f"{self.redacted_url} closed the connection or does not speak HTTP ({reason})")


@dataclass(frozen=True)
class Retry:
    """Retry policy for 429 and 503 responses, always before the first audio."""

    max_retries: int = 0

    def delay(self, error: CsmError, attempt: int) -> float | None:
        """Seconds to wait before a retry; None for no retry. attempt: retries so far."""
        if attempt >= self.max_retries or not isinstance(error, Busy | Unavailable):
            return None
        return _delay_of(error, attempt)


def _delay_of(error: ApiError, attempt: int) -> float | None:
    if error.retry_after is None:
        return min(_FIRST_DELAY * 2.0**attempt, _MAX_DELAY)
    return error.retry_after if error.retry_after <= _MAX_DELAY else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
