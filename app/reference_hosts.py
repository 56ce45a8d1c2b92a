"""Which hosts recordings may be fetched from: the setting REFERENCE_HOSTS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:]+")  # a name or an IPv4 address; an IPv6 address


class HostRefused(Exception):
    """Nothing is fetched from there. The message says why, and what to do."""


@dataclass(frozen=True)
class ReferenceHosts:
    """Entries as `cdn.example.org`, `10.0.0.5:9000` or, for the addresses behind names, `10.0.0.0/8`.

    hosts: a name or an address, and a port; None stands for the port of the scheme.
    networks: private addresses that the listed names may have. An address that is listed itself needs none.
    """

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[_Network, ...] = ()

    @staticmethod
    def parse(entries: Sequence[str]) -> ReferenceHosts:
        """Raises ValueError, with the entry."""
        hosts: set[tuple[str, int | None]] = set()
        networks: list[_Network] = []
        for entry in entries:
            try:
                if "/" in entry:
                    networks.append(ipaddress.ip_network(entry))
                else:
                    hosts.add(_parse_host(entry))
            except ValueError:
                raise ValueError(
                    f"{entry!r} is neither a host such as cdn.example.org or 10.0.0.5:9000, nor a network such as "
                    "10.0.0.0/8"
                ) from None
        return ReferenceHosts(frozenset(hosts), tuple(networks))

    def check(self, url: httpx.URL) -> None:
        """Raises HostRefused if nothing may be fetched from the host of a URL."""
        if url.scheme not in _PORTS or not url.host:
            raise HostRefused(f"the URL of the recording begins with {url.scheme[:20]!r}: send one of http: or https:")
        if url.userinfo:
            raise HostRefused("the URL of the recording holds a user name: send one without, signed if need be")
        port = url.port or _PORTS[url.scheme]
        host = url.raw_host.decode("ascii")
        listed = {(host, port), *([(host, None)] if port == _PORTS[url.scheme] else [])}
        if not listed & self.hosts:
            name = (f"[{host}]" if ":" in host else host) + (f":{url.port}" if url.port else "")
            raise HostRefused(
                f"no recording is fetched from {name[:270]!r}, which REFERENCE_HOSTS does not list: add it there, or "
                "send the recording itself, as base64 or a data URI"
            )

    def check_address(self, host: str, address: Address) -> None:
        """Raises HostRefused if a host may not have an address: a name would lead into a private network."""
        if host == str(address) or _is_public(address) or any(address in network for network in self.networks):
            return
        raise HostRefused(
            f"{host[:253]!r} has the address {address}, which is not public: if that is right, add "
            f"{ipaddress.ip_network(address)}, or a network that holds it, to REFERENCE_HOSTS"
        )


def _parse_host(entry: str) -> tuple[str, int | None]:
    """In the form that httpx sends hosts of URLs. Raises ValueError."""
    with suppress(ValueError):
        return str(ipaddress.IPv6Address(entry)), None
    parts = urlsplit(f"//{entry}")
    if parts.path or parts.query or parts.fragment or parts.username is not None or not parts.hostname:
        raise ValueError("not a host")
    import httpx  # only here: the settings import this module, and it takes long to import

    try:
        host = httpx.URL(scheme="http", host=parts.hostname).raw_host.decode("ascii")
    except httpx.InvalidURL:
        raise ValueError("not a host") from None
    if not _HOST.fullmatch(host):
        raise ValueError("not a host")
    return host, parts.port


def _is_public(address: Address) -> bool:
    """Addresses that stand for others, of tunnels and translators, count as private: nobody hosts recordings there."""
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour or address.teredo):
        return False
    return address.is_global and not address.is_multicast
