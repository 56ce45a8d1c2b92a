"""RunPod: the probe of its load balancer, and jobs through its package's local server."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from app.cli.runpod_handler import RunPodHandler
from app.settings import Settings
from tests.integration.conftest import ROOT
from tests.integration.shared import KEY

SECONDS = 60.0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, from below those that the system gives to connections."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
                ports.append(int(probe.getsockname()[1]))
        return ports


@dataclass(frozen=True)
class Worker:
    """`csm-serve runpod` with the service that it has started, and RunPod's local server as the source of its jobs."""

    url: str
    jobs: str
    health_port: int


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("runpod")
    port, health_port, jobs_port = free_ports(3)
    options = ["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(jobs_port)]
    service = {
        "API_KEY": KEY,
        "TTS_NORMALIZE": "off",  # the fake engine reads instructions such as [break@0] in texts
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PORT_HEALTH": str(health_port),
        "MODEL_PATH": "fake",
        "VOICES_DIR": str(folder / "voices"),
    }
    others = {
        name: each for name, each in os.environ.items() if name.lower() not in {*Settings.model_fields, "csm_url"}
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "runpod", "--", *options],
            cwd=folder,
            env={**others, "PYTHONPATH": str(ROOT), **service},
            stdout=log,
            stderr=log,
        )
    started = Worker(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{jobs_port}", health_port)
    try:
        limit = time.monotonic() + SECONDS
        while not answers(f"{started.jobs}/openapi.json"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < limit, (folder / "log").read_text()
            time.sleep(0.05)
        yield started
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) in (0, -signal.SIGTERM)
        assert not answers(f"{started.url}/livez")  # it has ended its service too
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait(SECONDS)


def answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=5)
    except httpx.TransportError:
        return False
    return True


def post(url: str, body: dict[str, Any] | None = None) -> Any:
    return httpx.post(url, json=body, timeout=SECONDS).raise_for_status().json()


def expected(worker: Worker, **query: str) -> bytes:
    return httpx.get(f"{worker.url}/tts/generate", params=query, headers={"X-API-Key": KEY}, timeout=SECONDS).content


def audio_of(pieces: list[dict[str, Any]]) -> bytes:
    assert [piece["index"] for piece in pieces] == list(range(len(pieces)))
    return b"".join(base64.b64decode(piece["audio"]) for piece in pieces)


def test_the_probe_is_answered_on_its_own_port_too(worker: Worker) -> None:
    for url in (worker.url, f"http://127.0.0.1:{worker.health_port}"):
        answer = httpx.get(f"{url}/ping", timeout=SECONDS)
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_job_is_spoken(worker: Worker) -> None:
    request = {"text": "Hello there.", "voice_id": "speaker_2", "format": "raw_pcm"}
    done = post(f"{worker.jobs}/runsync", {"input": request})
    assert done["status"] == "COMPLETED"
    assert audio_of(done["output"]) == expected(worker, **request)
    first = done["output"][0]
    assert (first["format"], first["sample_rate"], first["engine"]) == ("raw_pcm", 24_000, "fake")
    default = post(f"{worker.jobs}/runsync", {"input": {"text": "Hello there.", "seed": 3}})["output"]
    assert audio_of(default)[:4] == b"RIFF"


def test_a_job_is_streamed(worker: Worker) -> None:
    job = post(f"{worker.jobs}/run", {"input": {"text": "x" * 40, "format": "raw_pcm"}})
    done = post(f"{worker.jobs}/stream/{job['id']}")
    assert done["status"] == "COMPLETED"
    pieces = [piece["output"] for piece in done["stream"]]
    assert len(pieces) > 1
    assert audio_of(pieces) == expected(worker, text="x" * 40, format="raw_pcm")


def test_errors_are_told_as_runpod_wants_them(worker: Worker) -> None:
    for request, reason in (
        ({"text": "Hello.", "voice_id": "nobody"}, "unknown_voice: voice 'nobody' is unknown"),
        ({"text": "Hello.", "loudness": 3}, "loudness"),
        ({"words": "Hello."}, "the input must be an object with a text"),
        ({"text": "Hello.", "format": "midi"}, "midi"),
    ):
        [told] = post(f"{worker.jobs}/runsync", {"input": request})["output"]
        assert reason in told["error"]


@pytest.mark.anyio
async def test_a_worker_whose_engine_has_failed_is_replaced(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test: its service breaks."""
    monkeypatch.setenv("API_KEY", KEY)
    config: dict[str, Any] = {}
    handler = RunPodHandler(worker.url, 0, config)

    async def answer(text: str) -> list[dict[str, Any]]:
        return [piece async for piece in handler.stream({"input": {"text": text}})]

    assert "audio" in (await answer("Hello."))[0]
    assert "error" in (await answer(""))[0]
    assert config == {}  # the request was wrong, the worker is not
    assert "engine_failed" in (await answer("[break@0]"))[0]["error"]
    assert config == {"refresh_worker": True}
    assert handler._client is not None
    await handler._client.close()
