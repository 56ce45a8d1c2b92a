"""Every format as clients get it: over sockets from real workers, decoded by FFmpeg, downloaded by curl."""

from __future__ import annotations

import re
import subprocess
import wave
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from app.audio.encoders import FORMATS
from engine import FRAME_SAMPLES
from tests.app.audio.encoders.test_formats import HEADER_MARKS, MAGIC, PADDING, UNDECLARED_DELAY, decode
from tests.app.voices.recordings import pitch_of
from tests.integration.shared import KEY, Server, serving
from tests.tools import need

ALL = pytest.mark.parametrize("name", FORMATS)
FRAMES = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service"), MODEL_PATH="fake:frame_seconds=0.005") as started:
        yield started


@contextmanager
def ask(
    server: Server, method: str = "GET", headers: dict[str, str] | None = None, **query: object
) -> Iterator[HTTPResponse]:
    """An answer of which the head has come."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, f"/tts/generate?{urlencode(query)}", headers={"X-API-Key": KEY, **(headers or {})})
        with connection.getresponse() as answer:
            yield answer


def body(server: Server, **query: object) -> bytes:
    with ask(server, **query) as answer:
        return answer.read()


def curl(server: Server, query: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    url = f"{server.url}/tts/generate?{query}"
    command = [need("curl"), "-sS", "-g", "--max-time", "30", "-H", f"X-API-Key: {KEY}", *options, url]
    return subprocess.run(command, capture_output=True, timeout=110, check=False)


def outcome_of(server: Server, request_id: str) -> str | None:
    """How a request ended; None while it has not, as its line is written then."""
    line = re.search(rf"id={request_id} .*?outcome=(\w+)", server.log)
    return line and line[1]


def chunks(answer: HTTPResponse) -> Iterator[bytes]:
    """The chunks of the transfer as they were sent: one for each time that the service let bytes go."""
    stream = answer.fp
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        assert stream.readline() == b"\r\n"


@ALL
def test_the_head_tells_what_comes(server: Server, name: str) -> None:
    with ask(server, text="Hello.", format=name, headers={"X-Request-ID": "mine-1"}) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == FORMATS[name].media_type
        assert answer.headers["X-Request-ID"] == "mine-1"
        assert answer.headers["X-TTS-Engine"] == "fake"
        assert answer.headers["X-Worker-ID"] == "0"
        assert answer.headers["X-Sample-Rate"] == "24000"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in answer.headers
        assert answer.read().startswith(MAGIC.get(name, b""))


@ALL
def test_bytes_leave_with_every_slice(server: Server, name: str) -> None:
    with ask(server, text="x" * FRAMES, format=name, audio_tokens_per_slice=1) as answer:
        assert FRAMES <= len(list(chunks(answer))) <= FRAMES + 1


@ALL
def test_bytes_leave_while_it_is_still_speaking(server: Server, name: str) -> None:
    mark = f"speaking-{name}"
    with ask(server, text="x" * 4000, format=name, headers={"X-Request-ID": mark}) as answer:
        coming = chunks(answer)
        assert all(next(coming) for _ in range(3))
        assert outcome_of(server, mark) is None
    server.wait_until(lambda: outcome_of(server, mark) == "left")


@ALL
def test_the_whole_is_as_long_as_what_was_spoken_and_sounds_like_it(server: Server, name: str) -> None:
    said = decode("raw_pcm", body(server, text="x" * FRAMES, format="raw_pcm"))
    assert said.size == FRAMES * FRAME_SAMPLES

    data = body(server, text="x" * FRAMES, format=name)
    heard = decode(name, data)

    delay = UNDECLARED_DELAY.get(name, 0)
    assert 0 <= heard.size - said.size - delay <= PADDING.get(name, 0)
    heard = heard[delay : delay + said.size]
    assert pitch_of(heard) == pytest.approx(pitch_of(said), abs=1)
    assert float(np.sqrt(np.mean(heard**2))) == pytest.approx(float(np.sqrt(np.mean(said**2))), rel=0.05)
    assert [data.count(mark) for mark in HEADER_MARKS.get(name, [])] == [1] * len(HEADER_MARKS.get(name, []))


@ALL
def test_a_failure_after_the_first_byte_is_no_end_to_curl(server: Server, name: str) -> None:
    broken = curl(server, f"format={name}&text=[raise@60]{'x' * 99}")
    assert broken.returncode == 18
    assert broken.stdout.startswith(MAGIC.get(name, b""))
    assert len(broken.stdout) > 100


@ALL
def test_curl_saves_what_plays(server: Server, name: str, tmp_path: Path) -> None:
    file = tmp_path / f"speech.{FORMATS[name].extension}"
    assert curl(server, f"format={name}&text={'x' * FRAMES}", "--fail", "-o", str(file)).returncode == 0
    if name == "wav":
        with wave.open(str(file)) as opened:
            assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (24_000, 1, 2)
            assert len(opened.readframes(opened.getnframes())) == FRAMES * FRAME_SAMPLES * 2
    assert decode(name, file.read_bytes()).size >= FRAMES * FRAME_SAMPLES


@pytest.mark.parametrize(
    ("accept", "format_", "chosen"),
    [
        (None, None, "wav"),
        ("*/*", None, "wav"),
        ("text/html", None, "wav"),
        ("audio/mpeg", None, "mp3"),
        ("audio/flac;q=0.1, audio/ogg;q=0.9", None, "opus"),
        ("audio/webm;codecs=opus,audio/wav;q=0.5", None, "webm"),
        ("audio/mpeg", "aac", "aac"),
        ("audio/flac", "WAV", "wav"),
    ],
)
def test_the_format_parameter_wins_over_accept(
    server: Server, accept: str | None, format_: str | None, chosen: str
) -> None:
    headers = {"Accept": accept} if accept else {}
    query = {"format": format_} if format_ else {}
    with ask(server, text="Hi", headers=headers, **query) as answer:
        assert answer.headers["Content-Type"] == FORMATS[chosen].media_type


def test_an_unknown_format_is_told_in_json(server: Server) -> None:
    with ask(server, text="Hi", format="midi", headers={"Accept": "audio/wav"}) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
        assert b"unknown_format" in answer.read()


def test_a_range_is_not_taken_for_a_part(server: Server) -> None:
    """Media elements ask for `bytes=0-`: an answer of 200 is the whole, from the start."""
    with ask(server, text="Hi", headers={"Range": "bytes=0-"}) as answer:
        assert answer.status == 200
        assert "Content-Range" not in answer.headers
        assert answer.read().startswith(b"RIFF")


def test_head_speaks_nothing_and_names_what_is_taken(server: Server) -> None:
    with ask(server, "HEAD", text="Hi", headers={"X-Request-ID": "head"}) as answer:
        assert (answer.status, answer.headers["Allow"], answer.read()) == (405, "GET, POST", b"")
    server.wait_until(lambda: outcome_of(server, "head") == "refused")


def test_pages_of_other_origins_may_call(server: Server) -> None:
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key, authorization, content-type",
        "X-API-Key": "",
    }
    with ask(server, "OPTIONS", headers=preflight) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        allowed = answer.headers["Access-Control-Allow-Headers"].lower()
        assert all(name in allowed for name in ("x-api-key", "authorization", "content-type"))
        assert "Access-Control-Allow-Credentials" not in answer.headers
    for key, status in ((KEY, 200), ("wrong", 401)):
        with ask(server, headers={"Origin": "https://app.example", "X-API-Key": key}, text="Hi") as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")
            assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]


def test_an_older_client_is_not_misled_either(server: Server) -> None:
    """HTTP/1.0 gets chunks too: at the end of the connection alone nobody could tell a broken stream from a whole."""
    whole = curl(server, "format=raw_pcm&text=Hi", "--http1.0")
    assert (whole.returncode, len(whole.stdout)) == (0, 2 * FRAME_SAMPLES * 2)
    assert curl(server, f"format=raw_pcm&text=[raise@60]{'x' * 99}", "--http1.0").returncode == 18
