from __future__ import annotations

import gzip
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.errors import ServiceError, TooLarge
from app.reference_hosts import Address, ReferenceHosts
from app.voices import recording_download
from app.voices.recording_download import RecordingDownloader
from tests.app.voices.http_server import answer, http_server

pytestmark = pytest.mark.anyio


class Names:
    """A resolver. addresses: of every name, in turn; the last one stays."""

    def __init__(self, *addresses: list[str]) -> None:
        self.addresses = list(addresses)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        found = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [ipaddress.ip_address(each) for each in found]


def downloader(*hosts: str, names: Names | None = None, seconds: float = 30.0) -> RecordingDownloader:
    options: Any = {} if names is None else {"resolve": names}
    return RecordingDownloader(ReferenceHosts.parse(hosts), max_bytes=1000, seconds=seconds, **options)


async def refusal(downloader: RecordingDownloader, url: str) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await downloader.fetch(url)
    return refused.value


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    names = Names(["127.0.0.1"], ["93.184.216.34"])
    async with http_server({"/a": answer(b"recording")}) as (port, requests):
        allowed = downloader(f"voices.example:{port}", "127.0.0.0/8", names=names)
        assert await allowed.fetch(f"http://voices.example:{port}/a") == b"recording"
    assert names.asked == ["voices.example"]  # once
    assert f"Host: voices.example:{port}\r\n" in requests[0]
    assert "Accept-Encoding: identity\r\n" in requests[0]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"]])
async def test_a_name_with_a_private_address_is_not_connected_to(addresses: list[str]) -> None:
    async with http_server({"/a": answer(b"secret")}) as (port, requests):
        refused = await refusal(
            downloader(f"voices.example:{port}", names=Names(addresses)), f"http://voices.example:{port}/a"
        )
    assert (refused.status, refused.code) == (422, "reference_url_refused")
    assert f"'voices.example' has the address {addresses[-1]}, which is not public" in refused.detail
    assert requests == []


async def test_redirects_are_followed_within_the_listed_hosts() -> None:
    answers = {
        "/a": answer(status="302 Found", Location="/b"),
        "/b": answer(status="307 Temporary Redirect", Location="c?d"),
        "/c": answer(b"recording"),
        "/away": answer(status="301 Moved Permanently", Location="http://169.254.169.254/latest"),
        "/name": answer(status="303 See Other", Location="http://inside.example/x"),
        "/file": answer(status="302 Found", Location="file:///etc/passwd"),
        "/loop": answer(status="302 Found", Location="/loop"),
    }
    async with http_server(answers) as (port, requests):
        url = f"http://127.0.0.1:{port}"
        allowed = downloader(f"127.0.0.1:{port}", "inside.example", names=Names(["127.0.0.1"]))
        assert await allowed.fetch(f"{url}/a") == b"recording"
        for path, named in (
            ("/away", "'169.254.169.254', which REFERENCE_HOSTS does not list"),
            ("/name", "'inside.example' has the address 127.0.0.1"),
            ("/file", "begins with 'file'"),
        ):
            refused = await refusal(allowed, url + path)
            assert refused.code == "reference_url_refused"
            assert named in refused.detail
        assert "more than 3 redirects" in (await refusal(allowed, f"{url}/loop")).detail
    assert sum("/loop" in each for each in requests) == 4


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_recording_that_is_too_large_is_refused(framing: str) -> None:
    body = bytes(1001)
    chunked = answer(Transfer_Encoding="chunked").replace(b"Content-Length: 0\r\n", b"")
    whole = answer(body) if framing == "length" else chunked + b"3e9\r\n" + body + b"\r\n0\r\n\r\n"
    async with http_server({"/a": whole, "/b": answer(body[:1000])}) as (port, _):
        allowed = downloader(f"127.0.0.1:{port}")
        refused = await refusal(allowed, f"http://127.0.0.1:{port}/a")
        assert isinstance(refused, TooLarge)
        assert "MAX_UPLOAD_MB" in refused.detail
        assert await allowed.fetch(f"http://127.0.0.1:{port}/b") == body[:1000]


async def test_what_cannot_be_fetched_says_why() -> None:
    packed = gzip.compress(b"recording")
    answers = {"/gzip": answer(packed, Content_Encoding="gzip"), "/silent": None, "/rubbish": b"not HTTP\r\n\r\n"}
    async with http_server(answers) as (port, _):
        url = f"http://127.0.0.1:{port}"
        allowed = downloader(f"127.0.0.1:{port}")
        for path, reason in (("/gzip", "compresses it"), ("/missing", "answers with 404"), ("/rubbish", "be reached")):
            refused = await refusal(allowed, url + path)
            assert (refused.status, refused.code) == (422, "reference_not_fetched")
            assert reason in refused.detail
        hurried = downloader(f"127.0.0.1:{port}", seconds=0.2)
        assert "longer than 0.2 seconds" in (await refusal(hurried, f"{url}/silent")).detail
    assert "be reached" in (await refusal(allowed, f"{url}/gzip")).detail  # nobody listens any more
    nameless = downloader("a.example", names=Names([]))
    assert "no address" in (await refusal(nameless, "http://a.example/")).detail
    assert "is invalid" in (await refusal(allowed, "http://[::1/")).detail


def certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of a name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(signed.public_bytes(encoding) + key.private_bytes(encoding, private, serialization.NoEncryption()))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=file)


async def test_the_certificate_is_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = certificate("voices.example", tmp_path)
    monkeypatch.setattr(recording_download, "_tls", lambda: client)
    async with http_server({"/a": answer(b"recording")}, server) as (port, _):
        hosts = (f"voices.example:{port}", f"other.example:{port}", "127.0.0.0/8")
        allowed = downloader(*hosts, names=Names(["127.0.0.1"]))
        assert await allowed.fetch(f"https://voices.example:{port}/a") == b"recording"
        refused = await refusal(allowed, f"https://other.example:{port}/a")
        assert "certificate" in refused.detail
        monkeypatch.undo()
        refused = await refusal(allowed, f"https://voices.example:{port}/a")  # of an unknown authority
        assert "certificate" in refused.detail
