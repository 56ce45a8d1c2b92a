from __future__ import annotations

import ipaddress

import httpx
import pytest

from app.reference_hosts import HostRefused, ReferenceHosts

HOSTS = ReferenceHosts.parse(
    (
        "cdn.example.org",
        "Upper.Example:8443",
        "10.0.0.5:9000",
        "[fd00::1]:81",
        "fd00::2",
        "bücher.example",
        "10.1.0.0/16",
    )
)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.org/a.wav",
        "http://CDN.example.org:80/a.wav?x=1",
        "https://upper.example:8443/",
        "http://10.0.0.5:9000/",
        "http://[fd00::1]:81/",
        "https://[fd00::2]/",
        "https://bücher.example/",
        "https://xn--bcher-kva.example/",
    ],
)
def test_a_listed_host_is_allowed(url: str) -> None:
    HOSTS.check(httpx.URL(url))


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://cdn.example.org:8443/", "'cdn.example.org:8443', which REFERENCE_HOSTS does not list"),
        ("https://cdn.example.org.evil.example/", "REFERENCE_HOSTS"),
        ("https://cdn.example.org./", "REFERENCE_HOSTS"),
        ("https://upper.example/", "REFERENCE_HOSTS"),
        ("http://10.0.0.5/", "REFERENCE_HOSTS"),
        ("http://10.1.2.3/", "REFERENCE_HOSTS"),  # a network lists no address
        ("http://0x0a000005:9000/", "REFERENCE_HOSTS"),
        ("http://[fd00::1]/", "'[fd00::1]'"),
        ("http://cdn.example.org@10.0.0.5:9000/", "user name"),
        ("ftp://cdn.example.org/", "begins with 'ftp'"),
        ("file:///etc/passwd", "begins with 'file'"),
        ("cdn.example.org/a.wav", "begins with ''"),
    ],
)
def test_any_other_is_refused_by_its_name(url: str, named: str) -> None:
    with pytest.raises(HostRefused) as refused:
        HOSTS.check(httpx.URL(url))
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", True),  # of a listed network
        ("10.2.2.3", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", False),
        ("2002:7f00:1::1", False),
    ],
)
def test_a_name_must_have_public_addresses_or_those_of_a_listed_network(address: str, allowed: bool) -> None:
    if allowed:
        HOSTS.check_address("cdn.example.org", ipaddress.ip_address(address))
        return
    with pytest.raises(HostRefused, match="which is not public"):
        HOSTS.check_address("cdn.example.org", ipaddress.ip_address(address))


def test_a_listed_address_needs_no_network() -> None:
    HOSTS.check_address("10.0.0.5", ipaddress.ip_address("10.0.0.5"))


@pytest.mark.parametrize(
    "entry", ["http://a.example", "a b", "a.example:x", "a.example:99999", "10.0.0.0/33", "a/b", ""]
)
def test_an_entry_that_cannot_be_used_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host such as") as refused:
        ReferenceHosts.parse((entry,))
    assert repr(entry) in str(refused.value)
