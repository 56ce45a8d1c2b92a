"""Failed components over HTTP: the log, every worker's `/health` and the responses report them, and nothing hangs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.voices.recordings import recording
from tests.integration.shared import KEY, Server, serving

WORKERS = 2
WHY = "TypeError: open() got an unexpected keyword argument 'metadata_error'"
# Python imports a module of this name at startup: it breaks PyAV in decoders while a file exists.
SITE = """
import os, sys

if "app.voices.decoder_process" in sys.orig_argv and os.path.exists({switch!r}):
    import av

    opening = av.open
    av.open = lambda *given, **named: opening(*given, **named, metadata_error="replace")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def switch(folder: Path) -> Path:
    """The decoder is broken while this file exists."""
    return folder / "broken"


@pytest.fixture(scope="module")
def server(folder: Path, switch: Path) -> Iterator[Server]:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE.format(switch=str(switch)))
    (folder / "voices").mkdir()
    (folder / "voices" / "old.wav").write_bytes(recording(pitch=330.0))
    switch.touch()
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(folder / "site"), str(root)])
    with serving(folder, PYTHONPATH=path, WORKERS=str(WORKERS)) as started:
        started.wait_until(lambda: all(each["state"] == "ready" for each in health(started)["tts_engines"].values()))
        yield started


def health(server: Server) -> Any:
    return httpx.get(f"{server.url}/health", timeout=30).json()


def upload(server: Server, voice_id: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/voices",
        headers={"X-API-Key": KEY},
        files={"file": ("amy.wav", recording())},
        data={"voice_id": voice_id},
        timeout=30,
    )


def speak(server: Server, voice_id: str | None) -> httpx.Response:
    query = {"text": "Hello", **({} if voice_id is None else {"voice_id": voice_id})}
    return httpx.get(f"{server.url}/tts/generate", params=query, headers={"X-API-Key": KEY}, timeout=30)


def errors(server: Server) -> list[str]:
    return [line for line in server.log.splitlines() if " ERROR " in line]


def test_a_broken_decoder_is_reported_from_the_start(server: Server) -> None:
    for _ in range(8):  # new connections: several workers answer
        told = health(server)
        assert told["status"] == "degraded"
        assert told["components"]["voice_decoder"] == {"state": "failed", "error": WHY, "workers": ["0", "1"]}
    assert server.get("/readyz") == 200
    lines = errors(server)
    assert len([line for line in lines if "voice_decoder does not work" in line and WHY in line]) == WORKERS
    assert len([line for line in lines if "none of 1 voices could be encoded" in line]) == WORKERS
    assert len(lines) == 2 * WORKERS


def test_only_requests_that_need_the_decoder_fail(server: Server) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: upload(server, f"new-{number}.wav"), range(8)))
    for answer in (*answers, speak(server, "old.wav")):
        assert (answer.status_code, answer.json()["code"]) == (503, "decoder_failed")
        assert "decoder of this service does not start" in answer.json()["detail"]
        assert "log" in answer.json()["detail"]
        assert "Retry-After" not in answer.headers
    assert speak(server, None).status_code == 200
    assert len(errors(server)) == 2 * WORKERS  # no further line for the same reason


def test_a_repaired_decoder_is_used_again(server: Server, switch: Path) -> None:
    switch.unlink()
    uploads = 0
    while health(server)["status"] != "ok":  # each worker checks at its next recording
        answer = upload(server, f"late-{uploads}.wav")
        assert answer.status_code == 201, answer.text
        uploads += 1
    assert uploads >= WORKERS
    assert health(server)["components"]["voice_decoder"] == {"state": "ok", "error": None, "workers": []}
    assert speak(server, "old.wav").status_code == 200
    assert server.log.count("voice_decoder works again") == WORKERS
