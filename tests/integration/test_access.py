"""Authentication over raw sockets: unusual paths and request forms, and a search of the log for keys."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.shared import KEY, Server, serving

SECOND = "second-key"
GUESS = "wrong-guess-of-a-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service"), LOG_LEVEL="DEBUG") as started:
        yield started


def exchange(server: Server, head: str) -> bytes:
    """The response on a new connection."""
    got = b""
    with server.connect(head) as connection:
        while part := receive(connection):
            got += part
    return got


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


CLOSED = [
    "/voices",
    "//voices",
    "/voices/",
    "/./voices",
    "/health/../voices",
    "/health/..%2fvoices",
    "/health%2f..%2fvoices",
    "/%76oices",
    "/static/../voices",
    "/static/%2e%2e/voices",
    "/static/..%5cvoices",
    "/static/..",
    "/openapi.json",
    "/docs",
    "/unknown",
    "/health/",
    "//health",
    "/HEALTH",
    "/health%00",
    "/health;/../voices",
    "/%2f",
    "/tts/generate?text=Hi",
    "/voices?api_key=",
    "/voices?x=/health",
    "/voices#/health",
]


@pytest.mark.parametrize("target", CLOSED)
def test_without_a_key_only_open_paths_are_served(server: Server, target: str) -> None:
    for method, version in itertools.product(("GET", "POST", "HEAD", "OPTIONS", "BREW"), ("1.1", "1.0")):
        answer = exchange(server, f"{method} {target} HTTP/{version}\nHost: service\nConnection: close")
        assert status(answer) in (401, 400), answer
        assert b" 400 " not in answer[:16] or b"Invalid" in answer  # by the server itself, for invalid HTTP
        assert method == "HEAD" or b"RIFF" not in answer


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://service/voices", "service"),
        ("http://service/health/../voices", "service"),
        ("/voices", "service/health?"),
        ("/voices", "service/health#"),
        ("http://127.0.0.1/health@service/voices", "127.0.0.1/health"),
    ],
)
def test_neither_host_nor_the_absolute_form_opens_a_path(server: Server, target: str, host: str) -> None:
    assert status(exchange(server, f"GET {target} HTTP/1.1\nHost: {host}\nConnection: close")) in (400, 401)


def test_with_a_key_the_absolute_form_and_http_1_0_are_served(server: Server) -> None:
    for line in ("http://service/voices HTTP/1.1", "/voices HTTP/1.0", "/%76oices HTTP/1.1"):
        answer = exchange(server, f"GET {line}\nHost: service\nX-API-Key: {KEY}\nConnection: close")
        assert status(answer) == 200


def test_unknown_paths_are_404_only_with_a_key(server: Server) -> None:
    for key, expected in ((KEY, 404), (GUESS, 401)):
        answer = exchange(server, f"GET /unknown HTTP/1.1\nHost: service\nX-API-Key: {key}\nConnection: close")
        assert status(answer) == expected


def test_an_extra_slash_does_not_redirect(server: Server) -> None:
    answer = exchange(server, f"GET /voices/ HTTP/1.1\nHost: elsewhere\nX-API-Key: {KEY}\nConnection: close")
    assert status(answer) == 404
    assert b"elsewhere" not in answer


@pytest.mark.parametrize("target", ["/ws", "/health", "/", "/static/app.js", "/api/amy", "/unknown"])
def test_a_websocket_without_a_key_is_never_opened(server: Server, target: str) -> None:
    upgrade = (
        f"GET {target} HTTP/1.1\nHost: service\nConnection: Upgrade\nUpgrade: websocket\n"
        "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    )
    for headers in ("", f"\nX-API-Key: {GUESS}"):
        assert status(exchange(server, upgrade + headers)) in (401, 403)


def test_each_request_on_a_connection_needs_a_key(server: Server) -> None:
    first = f"GET /voices HTTP/1.1\nHost: service\nX-API-Key: {KEY}\n\n"
    answers = exchange(server, f"{first}GET /voices HTTP/1.1\nHost: service\nConnection: close")
    assert answers.count(b"HTTP/1.1 200") == 1
    assert answers.count(b"HTTP/1.1 401") == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_log_line_contains_a_key(tmp_path: Path, form: str) -> None:
    with serving(tmp_path, LOG_LEVEL="DEBUG", LOG_FORMAT=form) as own:
        targets = [
            "/voices?api_key={key}",
            "/tts/generate?text=Hi&api_key={key}",
            "/tts/generate?text=[raise]&api_key={key}",
            "/tts/generate?text=[raise@60]" + "x" * 99 + "&api_key={key}",
            "/unknown?api_key={key}",
            "/unknown/{key}",
            "/tts/generate?text=Hi&voice_id={key}",
            "/voices/{key}?api_key={key}",
            "/voices?api%5Fkey={key}&x=%zz",
        ]
        for key, target in itertools.product((KEY, SECOND), targets):
            exchange(own, f"GET {target.format(key=key)} HTTP/1.1\nHost: service\nX-API-Key: {key}\nConnection: close")
        for target in ("/voices?api_key={key}", "/unknown?api_key={key}", "/health?api_key={key}"):
            for header in ("X-API-Key: {key}", "Authorization: Bearer {key}", "Authorization: Basic {key}"):
                head = f"GET {target} HTTP/1.1\nHost: service\n{header}\nConnection: close".format(key=GUESS)
                assert status(exchange(own, head)) in (401, 200)
        exchange(own, f"GET /voices?api_key={KEY} HTTP/9.9\nHost: service")
        exchange(own, f"GET /voices?api_key={KEY} HTTP/1.1\nX-API-Key: {KEY}\nNo Header\nConnection: close")
        assert own.stop() == 0
        log = own.log
    assert "was cut" in log  # errors after the first byte are logged
    assert log.count("outcome") > 20
    for key in (KEY, SECOND, GUESS):
        assert key not in log
