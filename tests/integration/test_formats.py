"""Every format from a real server: chunk by chunk over sockets, decoded by FFmpeg, downloaded by curl."""

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
from tests.app.audio.encoders.test_formats import HEADER_MARKERS, MAGIC, PADDING, UNDECLARED_DELAY, decode
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
def request(
    server: Server, method: str = "GET", headers: dict[str, str] | None = None, **query: object
) -> Iterator[HTTPResponse]:
    """A response whose headers have arrived."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, f"/tts/generate?{urlencode(query)}", headers={"X-API-Key": KEY, **(headers or {})})
        with connection.getresponse() as response:
            yield response


def body(server: Server, **query: object) -> bytes:
    with request(server, **query) as response:
        return response.read()


def curl(server: Server, query: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    url = f"{server.url}/tts/generate?{query}"
    command = [need("curl"), "-sS", "-g", "--max-time", "30", "-H", f"X-API-Key: {KEY}", *options, url]
    return subprocess.run(command, capture_output=True, timeout=110, check=False)


def outcome_of(server: Server, request_id: str) -> str | None:
    """The logged outcome of a request; None while it is running."""
    line = re.search(rf"id={request_id} .*?outcome=(\w+)", server.log)
    return line and line[1]


def chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The chunks of the chunked transfer encoding, one per write of the service."""
    stream = response.fp
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        assert stream.readline() == b"\r\n"


@ALL
def test_response_headers(server: Server, name: str) -> None:
    with request(server, text="Hello.", format=name, headers={"X-Request-ID": "mine-1"}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == FORMATS[name].media_type
        assert response.headers["X-Request-ID"] == "mine-1"
        assert response.headers["X-TTS-Engine"] == "fake"
        assert response.headers["X-Worker-ID"] == "0"
        assert response.headers["X-Sample-Rate"] == str(FORMATS[name].sample_rate)
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in response.headers
        assert response.read().startswith(MAGIC.get(name, b""))


@ALL
def test_every_slice_yields_bytes(server: Server, name: str) -> None:
    with request(server, text="x" * FRAMES, format=name, audio_tokens_per_slice=1) as response:
        assert FRAMES <= len(list(chunks(response))) <= FRAMES + 1


@ALL
def test_bytes_are_sent_while_speech_is_generated(server: Server, name: str) -> None:
    request_id = f"speaking-{name}"
    with request(server, text="x" * 4000, format=name, headers={"X-Request-ID": request_id}) as response:
        received = chunks(response)
        assert all(next(received) for _ in range(3))
        assert outcome_of(server, request_id) is None
    server.wait_until(lambda: outcome_of(server, request_id) == "left")


@ALL
def test_decoded_audio_has_the_length_pitch_and_loudness_of_the_speech(server: Server, name: str) -> None:
    speech = decode("raw_pcm", body(server, text="x" * FRAMES, format="raw_pcm"))
    assert speech.size == FRAMES * FRAME_SAMPLES

    data = body(server, text="x" * FRAMES, format=name)
    decoded = decode(name, data)

    delay = UNDECLARED_DELAY.get(name, 0)
    assert -2 <= decoded.size - speech.size - delay <= PADDING.get(name, 0)
    decoded = decoded[delay : delay + speech.size]
    assert pitch_of(decoded) == pytest.approx(pitch_of(speech), abs=1)
    assert float(np.sqrt(np.mean(decoded**2))) == pytest.approx(float(np.sqrt(np.mean(speech**2))), rel=0.05)
    assert [data.count(marker) for marker in HEADER_MARKERS.get(name, [])] == [1] * len(HEADER_MARKERS.get(name, []))


@ALL
def test_curl_detects_a_failure_after_the_first_byte(server: Server, name: str) -> None:
    broken = curl(server, f"format={name}&text=[raise@60]{'x' * 99}")
    assert broken.returncode == 18
    assert broken.stdout.startswith(MAGIC.get(name, b""))
    assert len(broken.stdout) > 100


@ALL
def test_curl_saves_a_playable_file(server: Server, name: str, tmp_path: Path) -> None:
    file = tmp_path / f"speech.{FORMATS[name].extension}"
    assert curl(server, f"format={name}&text={'x' * FRAMES}", "--fail", "-o", str(file)).returncode == 0
    if name == "wav":
        with wave.open(str(file)) as opened:
            assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (24_000, 1, 2)
            assert len(opened.readframes(opened.getnframes())) == FRAMES * FRAME_SAMPLES * 2
    assert decode(name, file.read_bytes()).size >= FRAMES * FRAME_SAMPLES - 2


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
def test_the_format_parameter_overrides_accept(
    server: Server, accept: str | None, format_: str | None, chosen: str
) -> None:
    headers = {"Accept": accept} if accept else {}
    query = {"format": format_} if format_ else {}
    with request(server, text="Hi", headers=headers, **query) as response:
        assert response.headers["Content-Type"] == FORMATS[chosen].media_type


def test_an_unknown_format_is_a_json_error(server: Server) -> None:
    with request(server, text="Hi", format="midi", headers={"Accept": "audio/wav"}) as response:
        assert (response.status, response.headers["Content-Type"]) == (400, "application/json")
        assert b"unknown_format" in response.read()


def test_an_open_range_returns_the_whole(server: Server) -> None:
    """Media elements send `bytes=0-`: status 200 means the whole resource."""
    with request(server, text="Hi", headers={"Range": "bytes=0-"}) as response:
        assert response.status == 200
        assert "Content-Range" not in response.headers
        assert response.read().startswith(b"RIFF")


def test_head_is_405_with_the_allowed_methods(server: Server) -> None:
    with request(server, "HEAD", text="Hi", headers={"X-Request-ID": "head"}) as response:
        assert (response.status, response.headers["Allow"], response.read()) == (405, "GET, POST", b"")
    server.wait_until(lambda: outcome_of(server, "head") == "refused")


def test_cors_for_pages_of_other_origins(server: Server) -> None:
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key, authorization, content-type",
        "X-API-Key": "",
    }
    with request(server, "OPTIONS", headers=preflight) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        allowed = response.headers["Access-Control-Allow-Headers"].lower()
        assert all(name in allowed for name in ("x-api-key", "authorization", "content-type"))
        assert "Access-Control-Allow-Credentials" not in response.headers
    for key, status in ((KEY, 200), ("wrong", 401)):
        with request(server, headers={"Origin": "https://app.example", "X-API-Key": key}, text="Hi") as response:
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (status, "*")
            assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]


def test_http_1_0_clients_detect_broken_streams(server: Server) -> None:
    """HTTP/1.0 gets chunks too: a closed connection alone would not distinguish a broken stream from a complete one."""
    whole = curl(server, "format=raw_pcm&text=Hi", "--http1.0")
    assert (whole.returncode, len(whole.stdout)) == (0, 2 * FRAME_SAMPLES * 2)
    assert curl(server, f"format=raw_pcm&text=[raise@60]{'x' * 99}", "--http1.0").returncode == 18
