from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from csm_serve_client import CsmClient, Misconfigured
from csm_serve_client.transport import Server


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CSM_URL", raising=False)


def test_the_default_is_the_service_on_this_machine() -> None:
    assert Server.of(None, None) == Server("http://127.0.0.1:8000", None)


@pytest.mark.parametrize(
    ("env", "url", "key"),
    [
        ("API_KEY=one,two\nPORT=9001\nTTS_TOP_K=nonsense\n", "http://127.0.0.1:9001", "one"),
        ("API_KEY=one\nHOST=::\n", "http://[::1]:8000", "one"),
        ("API_KEY=' , one'\nHOST=10.1.2.3\n", "http://10.1.2.3:8000", "one"),
        ("API_KEY=one\nCSM_URL=https://example.org/speech\n", "https://example.org/speech", "one"),
    ],
)
def test_address_and_key_come_from_the_env_file(env: str, url: str, key: str) -> None:
    Path(".env").write_text(env, encoding="utf-8")
    assert Server.of(None, None) == Server(url, key)


def test_arguments_override_the_environment_which_overrides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("API_KEY=file\nCSM_URL=http://file\n", encoding="utf-8")
    monkeypatch.setenv("CSM_URL", "http://environment")
    assert Server.of(None, None) == Server("http://environment", "file")
    assert Server.of("http://argument", None) == Server("http://argument", "file")
    assert Server.of(None, "argument") == Server("http://environment", "argument")


def test_with_both_arguments_no_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "nonsense")
    assert Server.of("http://argument", "key") == Server("http://argument", "key")
    with pytest.raises(Misconfigured, match="PORT is 'nonsense'"):
        Server.of(None, "key")


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://x", "http://", "http://x?api_key=s3cret", "http://x/#s3cret", "http://x:s3cret"],
)
def test_an_invalid_address_is_reported(url: str) -> None:
    with pytest.raises(Misconfigured, match="http://localhost:8000") as caught:
        CsmClient(url, "key")
    assert "s3cret" not in str(caught.value)


def test_an_invalid_key_is_reported_but_not_shown() -> None:
    with pytest.raises(Misconfigured) as caught:
        CsmClient("http://x", "s3cret\nX-Other: 1")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(Server("http://x", "s3cret"))
    assert Server("https://me:s3cret@x/y/", None).redacted_url == "https://x/y"


@pytest.mark.parametrize(
    ("host", "proxied"), [("localhost", False), ("127.0.0.2", False), ("[::1]", False), ("x", True)]
)
def test_no_proxy_is_used_for_loopback(host: str, proxied: bool) -> None:
    assert Server(f"http://{host}:1").http_options(1)["trust_env"] is proxied


def test_a_key_may_be_any_text() -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.extend(value for name, value in request.headers.raw if name.lower() == b"x-api-key")
        return httpx.Response(200, json=[])

    with CsmClient("http://x", "schlüssel", transport=httpx.MockTransport(answer)) as client:
        client.voices()
    assert sent == ["schlüssel".encode()]
