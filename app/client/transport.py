"""The service from a client's side: where it is, who may call it, how long to wait for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from .errors import ApiError, Busy, CsmError, Misconfigured, StreamCut, Unavailable, Unreachable

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0  # a request may wait for a slot, by default 30 s, and for its first audio then
_LONGEST_PAUSE = 60.0  # a service that asks for more than that is not waited for
_FIRST_PAUSE = 0.5  # where it does not say, and twice as much each time


@dataclass(frozen=True)
class Server:
    """Where a service is and the key to it. Raises Misconfigured if either cannot be used."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:  # its message may show a password
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise Misconfigured(
                "the address must be like http://localhost:8000, or https://example.org/speech, without ? and #; "
                f"it begins with {self.base_url[:7]!r}"
            )
        if self.api_key is not None and not self.api_key.isprintable():
            raise Misconfigured("the API key holds characters that no header can carry, such as a line break")

    @staticmethod
    def of(base_url: str | None, api_key: str | None) -> Server:
        """What is None comes from the environment or `.env`: CSM_URL, or HOST and PORT; the first key of API_KEY."""
        if base_url is None or api_key is None:
            from ..settings import SettingsError, load_client_settings  # pydantic, for those who need it

            try:
                settings = load_client_settings()
            except SettingsError as error:
                raise Misconfigured(str(error)) from None
            base_url = settings.url if base_url is None else base_url
            api_key = settings.key if api_key is None else api_key
        return Server(base_url.strip(), api_key or None)

    @property
    def shown(self) -> str:
        """The address without the name and password that it may hold."""
        url = httpx.URL(self.base_url)
        return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path.rstrip('/')}"

    def http_options(self, timeout: float) -> dict[str, Any]:
        """For httpx. It follows no redirect, so that the key goes to nobody else."""
        headers: dict[str, str | bytes] = {"User-Agent": "csm-serve-client", "Accept-Encoding": "identity"}
        if self.api_key is not None:
            headers["X-API-Key"] = self.api_key.encode()
        return {
            "base_url": self.base_url,
            "headers": headers,
            "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            "trust_env": not _is_loopback(httpx.URL(self.base_url).host),  # no proxy leads to this machine
        }

    @contextmanager
    def errors(self, *, begun: bool = False) -> Iterator[None]:
        """Let what httpx raises be errors of ours. begun: the audio has."""
        try:
            yield
        except httpx.RequestError as error:
            raise self._error(error, begun) from error

    def _error(self, error: httpx.RequestError, begun: bool) -> CsmError:
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return Unreachable(f"nobody answers at {self.shown} ({why}): is csm-serve running, and is CSM_URL right?")
        if begun:
            return StreamCut(f"the stream was cut: what came of it is not whole ({why})")
        if isinstance(error, httpx.TimeoutException):
            return Unreachable(f"{self.shown} said nothing for too long ({why})")
        return Unreachable(f"{self.shown} did not answer as HTTP does, or left ({why})")


@dataclass(frozen=True)
class Retry:
    """How often to try again what was answered 429 or 503, always before the first audio."""

    times: int = 0

    def pause(self, error: CsmError, tried: int) -> float | None:
        """Seconds to wait before another try; None if there shall be none. tried: again, so far."""
        if tried >= self.times or not isinstance(error, Busy | Unavailable):
            return None
        return _pause_of(error, tried)


def _pause_of(error: ApiError, tried: int) -> float | None:
    if error.retry_after is None:
        return min(_FIRST_PAUSE * 2.0**tried, _LONGEST_PAUSE)
    return error.retry_after if error.retry_after <= _LONGEST_PAUSE else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
