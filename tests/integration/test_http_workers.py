"""HTTP_WORKERS: two processes serve HTTP for two engines in processes of their own."""

from __future__ import annotations

import base64
import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from tests.app.voices.recordings import recording
from tests.integration.pool_clients import HEADERS, Listener, at_once, health, spread, states
from tests.integration.shared import Server, serving

# A selection of the tests of one process, unchanged, on this module's service.
from tests.integration.test_formats import (  # noqa: F401
    test_an_unknown_format_is_a_json_error,
    test_bytes_are_sent_while_speech_is_generated,
    test_http_1_0_clients_detect_broken_streams,
)

ENGINES, SLOTS = 2, 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("split"),
        MODEL_PATH="fake:frame_seconds=0.02",
        WORKERS=str(ENGINES),
        HTTP_WORKERS="2",
        CONCURRENT_REQUESTS_PER_WORKER=str(SLOTS),
        MAX_QUEUED_REQUESTS="0",
    ) as server:
        yield server


@pytest.fixture
def crowd(server: Server) -> Iterator[list[Listener]]:
    """One listener for each slot; they disconnect at the end, and every slot becomes free."""
    server.wait_until(lambda: settled(server))
    with listening(server, ENGINES * SLOTS) as listeners:
        yield listeners
    server.wait_until(lambda: settled(server))


@contextmanager
def listening(server: Server, count: int) -> Iterator[list[Listener]]:
    listeners = [Listener(server) for _ in range(count)]
    yield listeners
    for each in listeners:
        each.leave()


def workers(server: Server) -> dict[str, dict[str, Any]]:
    """The workers in /system-status, by their id; empty while the service does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/system-status", headers=HEADERS)
        return {each["worker_id"]: each for each in json.loads(connection.getresponse().read())["workers"]}
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()


def settled(server: Server) -> bool:
    """Every worker is ready, and no slot is in use."""
    told = workers(server).values()
    return len(told) == ENGINES + 2 and all(each["state"] == "ready" and not each["active"] for each in told)


def process_of(server: Server, worker_id: str) -> psutil.Process:
    return psutil.Process(workers(server)[worker_id]["pid"])


def outcome(listener: Listener) -> int | None:
    """The bytes of an answer that was read to its end; None if it was cut."""
    try:
        return len(listener.rest())
    except (http.client.IncompleteRead, ConnectionError):
        return None


def metric(server: Server, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/metrics", headers=HEADERS)
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


def test_only_engines_have_slots_and_only_the_others_listen(server: Server, crowd: list[Listener]) -> None:
    told = workers(server)
    assert [(key, each["engine"], each["capacity"]) for key, each in told.items()] == [
        ("0", "fake", SLOTS),
        ("1", "fake", SLOTS),
        ("http-0", None, 0),
        ("http-1", None, 0),
    ]
    assert health(server)[1]["tts_engines"].keys() == {"cpu_0", "cpu_1"}
    listening = {
        key
        for key, each in told.items()
        if any(found.status == "LISTEN" for found in psutil.Process(each["pid"]).net_connections("tcp"))
    }
    assert listening == {"http-0", "http-1"}
    assert server.get("/v1/models/fake") == 200


def test_requests_are_spread_over_engines_and_beyond_capacity_are_busy(server: Server, crowd: list[Listener]) -> None:
    assert spread(at_once(crowd)) == [SLOTS] * ENGINES
    with listening(server, 1) as (late,):
        late.ask()
        assert (late.status, late.error()["code"]) == (429, "busy")
        crowd[0].leave()
        server.wait_until(lambda: late.ask("Hi").status == 200 or late.rest() == b"")
        assert late.worker == crowd[0].worker


def test_the_voice_in_a_request_reaches_the_engine_as_an_uploaded_one(server: Server) -> None:
    audio, request = recording(pitch=440.0), {"text": "Hi", "format": "raw_pcm"}
    reference = {"audio": base64.b64encode(audio).decode(), "transcript": "Hello."}
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as client:
        inline = client.post("/tts/generate", json={**request, "reference": reference})
        assert (inline.status_code, client.get("/voices").json()) == (200, [])
        client.post("/voices", files={"file": ("inline.wav", audio)}, data={"transcript": "Hello."})
        uploaded = client.post("/tts/generate", json={**request, "voice_id": "inline.wav"})
        client.delete("/voices/inline.wav")
        default = client.post("/tts/generate", json=request)
    assert inline.content == uploaded.content != default.content


def test_errors_reach_the_client_as_from_one_process(server: Server, crowd: list[Listener]) -> None:
    for text, voice, status, code in (
        ("Hi", "nobody", 404, "unknown_voice"),
        ("[raise]", "speaker_0", 500, "engine_failed"),
        ("[memory]", "speaker_0", 500, "out_of_memory"),
    ):
        crowd[0].ask(text, voice_id=voice)
        assert (crowd[0].status, crowd[0].error()["code"]) == (status, code)
    assert outcome(crowd[0].ask("[raise@30]" + "x" * 50)) is None


def test_the_streams_of_a_killed_engine_go_on_at_another_and_it_is_restarted(
    server: Server, crowd: list[Listener]
) -> None:
    at_once(crowd, "x" * 140)
    pids = {key: each["pid"] for key, each in workers(server).items()}
    process_of(server, "0").kill()
    assert {(each.worker, outcome(each)) for each in crowd} == {("0", 140 * 3840), ("1", 140 * 3840)}
    server.wait_until(lambda: settled(server))
    assert {key for key, each in workers(server).items() if each["pid"] != pids[key]} == {"0"}
    with listening(server, ENGINES) as others:
        assert spread(at_once(others)) == [1] * ENGINES


def test_a_killed_http_process_frees_the_slots_of_its_streams(server: Server, crowd: list[Listener]) -> None:
    at_once(crowd)
    engines = [process_of(server, str(index)) for index in range(ENGINES)]
    victims = {key: process_of(server, key) for key in ("http-0", "http-1")}
    for each in victims.values():
        each.kill()
    assert [outcome(each) for each in crowd] == [None] * len(crowd)
    server.wait_until(lambda: settled(server))
    assert [process_of(server, str(index)) for index in range(ENGINES)] == engines
    assert all(process_of(server, key) != victim for key, victim in victims.items())
    with listening(server, ENGINES * SLOTS) as others:
        assert spread(at_once(others)) == [SLOTS] * ENGINES


def test_a_stopped_http_process_leaves_the_other_serving(server: Server, crowd: list[Listener]) -> None:
    stopped = process_of(server, "http-0")
    stopped.suspend()
    try:
        for each in crowd:
            assert outcome(each.ask("Hi")) == 2 * 3840
    finally:
        stopped.resume()


def test_an_uploaded_voice_is_encoded_by_every_engine(server: Server, crowd: list[Listener]) -> None:
    before = metric(server, "csm_voices_encoded_total")
    files = {"file": ("new.wav", recording())}
    assert httpx.post(f"{server.url}/voices", headers=HEADERS, files=files, timeout=30).status_code == 201
    server.wait_until(lambda: metric(server, "csm_voices_encoded_total") == before + ENGINES)


def test_a_reload_replaces_every_process_and_cuts_no_stream(server: Server, crowd: list[Listener]) -> None:
    before = {each.pid for each in server.workers()}
    at_once(crowd, "x" * 100)
    server.process.send_signal(signal.SIGHUP)
    assert [outcome(each) for each in crowd] == [100 * 3840] * len(crowd)
    server.wait_until(lambda: not before & {each.pid for each in server.workers()} and settled(server))


def test_stopping_finishes_streams_and_refuses_new_requests(server: Server) -> None:
    """The last test: the service ends."""
    server.wait_until(lambda: settled(server))
    children = server.workers()
    with listening(server, 5) as (late, *speaking):
        at_once(speaking, "x" * 100)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: states(server) == ["draining"] * ENGINES)
        assert server.get("/readyz") == 503
        late.ask("Hi")
        assert (late.status, late.error()["code"]) == (503, "draining")
        assert [outcome(each) for each in speaking] == [100 * 3840] * 4
    assert server.process.wait(timeout=60) == 0
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in children)
