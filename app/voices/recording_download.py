"""Fetches recordings from the hosts that REFERENCE_HOSTS lists, with limits, and from no other."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import cache

import anyio
import anyio.to_thread
import httpx

from ..errors import TooLarge, Unprocessable
from ..reference_hosts import Address, HostRefused, ReferenceHosts
from .recording_decoder import MEBIBYTE

TOTAL_SECONDS = 10.0  # for one recording, redirects included
MAX_REDIRECTS = 3
_HEADERS = {"User-Agent": "csm-serve", "Accept": "audio/*, */*;q=0.5", "Accept-Encoding": "identity"}

Resolve = Callable[[str, int], Awaitable[list[Address]]]


async def resolve_host(host: str, port: int) -> list[Address]:
    """The addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]


class RecordingDownloader:
    """max_bytes: limit of a recording. seconds: limit of its whole download. resolve: the resolver of names."""

    def __init__(
        self,
        hosts: ReferenceHosts,
        max_bytes: int,
        seconds: float = TOTAL_SECONDS,
        resolve: Resolve = resolve_host,
    ) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._resolve = resolve

    async def fetch(self, address: str) -> bytes:
        """The recording at a URL. Raises Unprocessable and TooLarge.

        Each redirect is checked as the URL is. The connection goes to the address that was checked, so that a name
        cannot be given another one meanwhile.
        """
        try:
            with anyio.fail_after(self._seconds):
                url = httpx.URL(address)
                for _ in range(1 + MAX_REDIRECTS):
                    content = await self._get(url)
                    if isinstance(content, bytes):
                        return content
                    url = content
        except HostRefused as error:
            raise Unprocessable(str(error), code="reference_url_refused") from None
        except TimeoutError:
            raise _failed(f"its download took longer than {self._seconds:g} seconds") from None
        except (httpx.HTTPError, OSError) as error:
            raise _failed(f"its host cannot be reached ({_reason(error)})") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise _failed(f"its URL is invalid ({_reason(error)})") from None
        raise _failed(f"it is behind more than {MAX_REDIRECTS} redirects")

    async def _get(self, url: httpx.URL) -> bytes | httpx.URL:
        """The recording, or where it is instead."""
        self._hosts.check(url)
        host = url.raw_host.decode("ascii")
        addresses = await self._resolve(host, url.port or 0)
        for address in addresses:
            self._hosts.check_address(host, address)
        if not addresses:
            raise OSError("its name has no address")
        secure = url.scheme == "https"
        async with httpx.AsyncClient(
            verify=await anyio.to_thread.run_sync(_tls) if secure else False, trust_env=False, timeout=self._seconds
        ) as client:
            request = client.build_request(
                "GET",
                url.copy_with(host=str(addresses[0])),
                headers={**_HEADERS, "Host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": host} if secure else {},
            )
            response = await client.send(request, stream=True)
            try:
                return await self._read(response, url)
            finally:
                await response.aclose()

    async def _read(self, response: httpx.Response, url: httpx.URL) -> bytes | httpx.URL:
        if response.is_redirect and response.has_redirect_location:
            return url.join(response.headers["Location"]).copy_with(fragment=None)
        if response.status_code != 200:
            raise _failed(f"its host answers with {response.status_code}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _failed("its host compresses it, which was not asked for")
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > self._max_bytes:
                limit = f"{self._max_bytes / MEBIBYTE:g} MB"
                raise TooLarge(f"the recording at the URL is larger than MAX_UPLOAD_MB, {limit}")
        return bytes(content)


def _failed(reason: str) -> Unprocessable:
    return Unprocessable(
        f"the recording cannot be fetched: {reason}; send the recording itself, as base64 or a data URI",
        code="reference_not_fetched",
    )


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


@cache
def _tls() -> ssl.SSLContext:
    """Loading the certificates takes long."""
    return httpx.create_ssl_context(trust_env=False)
