"""RunPod: the probe of its load balancer, and jobs through its package's local server."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.cli.runpod_handler import RunPodHandler
from tests.integration.conftest import ROOT
from tests.integration.shared import KEY, Server, serving

SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def health_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, health_port: int) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service"), PORT_HEALTH=str(health_port)) as started:
        yield started


@pytest.fixture(scope="module")
def endpoint(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of RunPod's local server, whose jobs `csm-serve runpod` takes."""
    port = free_port()
    folder = tmp_path_factory.mktemp("runpod")
    options = ["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "runpod", "--url", server.url, "--", *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "API_KEY": KEY},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        limit = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < limit, (folder / "log").read_text()
            try:
                httpx.get(f"{url}/openapi.json", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait(SECONDS)


def post(url: str, body: dict[str, Any] | None = None) -> Any:
    return httpx.post(url, json=body, timeout=SECONDS).raise_for_status().json()


def expected(server: Server, **query: str) -> bytes:
    return httpx.get(f"{server.url}/tts/generate", params=query, headers={"X-API-Key": KEY}, timeout=SECONDS).content


def audio_of(pieces: list[dict[str, Any]]) -> bytes:
    assert [piece["index"] for piece in pieces] == list(range(len(pieces)))
    return b"".join(base64.b64decode(piece["audio"]) for piece in pieces)


def test_the_probe_is_answered_on_its_own_port_too(server: Server, health_port: int) -> None:
    for port in (server.port, health_port):
        answer = httpx.get(f"http://127.0.0.1:{port}/ping", timeout=SECONDS)
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_job_is_spoken(endpoint: str, server: Server) -> None:
    request = {"text": "Hello there.", "voice_id": "speaker_2", "format": "raw_pcm"}
    done = post(f"{endpoint}/runsync", {"input": request})
    assert done["status"] == "COMPLETED"
    assert audio_of(done["output"]) == expected(server, **request)
    first = done["output"][0]
    assert (first["format"], first["sample_rate"], first["engine"]) == ("raw_pcm", 24_000, "fake")
    default = post(f"{endpoint}/runsync", {"input": {"text": "Hello there.", "seed": 3}})["output"]
    assert audio_of(default)[:4] == b"RIFF"


def test_a_job_is_streamed(endpoint: str, server: Server) -> None:
    job = post(f"{endpoint}/run", {"input": {"text": "x" * 40, "format": "raw_pcm"}})
    done = post(f"{endpoint}/stream/{job['id']}")
    assert done["status"] == "COMPLETED"
    pieces = [piece["output"] for piece in done["stream"]]
    assert len(pieces) > 1
    assert audio_of(pieces) == expected(server, text="x" * 40, format="raw_pcm")


def test_errors_are_told_as_runpod_wants_them(endpoint: str) -> None:
    for request, reason in (
        ({"text": "Hello.", "voice_id": "nobody"}, "unknown_voice: voice 'nobody' is unknown"),
        ({"text": "Hello.", "loudness": 3}, "loudness"),
        ({"words": "Hello."}, "the input must be an object with a text"),
        ({"text": "Hello.", "format": "midi"}, "midi"),
    ):
        [told] = post(f"{endpoint}/runsync", {"input": request})["output"]
        assert reason in told["error"]


@pytest.mark.anyio
async def test_a_worker_whose_engine_has_failed_is_replaced(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test: its service breaks."""
    monkeypatch.setenv("API_KEY", KEY)
    config: dict[str, Any] = {}
    handler = RunPodHandler(server.url, 0, config)

    async def answer(text: str) -> list[dict[str, Any]]:
        return [piece async for piece in handler.stream({"input": {"text": text}})]

    assert "audio" in (await answer("Hello."))[0]
    assert "error" in (await answer(""))[0]
    assert config == {}  # the request was wrong, the worker is not
    assert "engine_failed" in (await answer("[break@0]"))[0]["error"]
    assert config == {"refresh_worker": True}
    assert handler._client is not None
    await handler._client.close()
