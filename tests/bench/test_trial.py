from __future__ import annotations

import json

import pytest

from bench.load_test.trial import Address, NotLoopbackError, Track
from bench.texts import text_longer_than


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000/"])
def test_loopback_addresses_are_accepted(url: str) -> None:
    assert Address.of(url, "key").port == 8000


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "https://127.0.0.1",
        "http://10.0.0.1:8000",
        "http://0.0.0.0:8000",
        "http://127.0.0.1.example.org",
    ],
)
def test_other_addresses_are_rejected(url: str) -> None:
    with pytest.raises(NotLoopbackError, match="on this machine"):
        Address.of(url, "key")


def test_the_key_is_sent_but_not_shown_in_repr() -> None:
    address = Address("127.0.0.1", 80, "secret")
    assert b"X-API-Key: secret" in Track("fixed", 2.0).request(address, 0)
    assert "secret" not in repr(address)


def test_a_request_is_deterministic_and_has_a_length() -> None:
    track = Track("fixed", 3.0, "wav", "amy")
    head, body = track.request(Address("127.0.0.1", 80), 7).split(b"\r\n\r\n")
    assert json.loads(body) == track.parameters(7)
    assert json.loads(body)["max_audio_length_ms"] == 3000
    assert f"Content-Length: {len(body)}".encode() in head
    assert "max_audio_length_ms" not in Track("natural", 3.0).parameters(7)


def test_a_fixed_text_takes_longer_than_its_limit() -> None:
    assert all(5000 > len(text_longer_than(number, 60.0)) >= 60 * 20 for number in range(20))
