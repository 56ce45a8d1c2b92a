"""A pool of four workers: placement, admission, errors and crashes, on one running service."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.pool_clients import Listener, at_once, health, spread, states
from tests.integration.shared import Server, serving

WORKERS, SLOTS = 4, 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("pool"),
        MODEL_PATH="fake:frame_seconds=0.02",
        WORKERS=str(WORKERS),
        CONCURRENT_REQUESTS_PER_WORKER=str(SLOTS),
        MAX_QUEUED_REQUESTS="0",
        ENGINE_TIMEOUT_SECONDS="1",
    ) as server:
        yield server


@pytest.fixture
def crowd(server: Server) -> Iterator[list[Listener]]:
    """One listener for each slot, on persistent connections; they disconnect at the end."""
    server.wait_until(lambda: states(server) == ["ready"] * WORKERS)
    listeners = [Listener(server) for _ in range(WORKERS * SLOTS)]
    yield listeners
    for each in listeners:
        each.leave()
    pause = threading.Event()
    while health(server)[1]["status"] != "ok" or not _is_empty(server):
        pause.wait(0.05)


def _is_empty(server: Server) -> bool:
    """All workers have a free slot."""
    probes = at_once([Listener(server) for _ in range(WORKERS)], "x")
    for each in probes:
        each.leave()
    return all(each.status == 200 for each in probes)


@pytest.mark.parametrize("kept", [False, True])
def test_arrivals_one_after_the_other_are_spread_evenly(server: Server, crowd: list[Listener], kept: bool) -> None:
    listeners = [each.warm_up() if kept else each for each in crowd[:8]]
    for each in listeners:
        each.ask()  # counted before the response starts
    assert spread(listeners) == [2] * WORKERS


@pytest.mark.parametrize("kept", [False, True])
def test_a_burst_is_spread_evenly(server: Server, crowd: list[Listener], kept: bool) -> None:
    assert spread(at_once([each.warm_up() if kept else each for each in crowd[:WORKERS]])) == [1] * WORKERS


@pytest.mark.parametrize("kept", [False, True])
def test_a_full_pool_is_full_evenly(server: Server, crowd: list[Listener], kept: bool) -> None:
    assert spread(at_once([each.warm_up() if kept else each for each in crowd])) == [SLOTS] * WORKERS


def test_short_requests_one_after_the_other_are_spread_too(server: Server, crowd: list[Listener]) -> None:
    for each in crowd[:8]:
        assert len(each.ask("Hi").rest()) == 2 * 3840
    assert spread(crowd[:8]) == [2] * WORKERS


def test_one_connection_is_served_by_all(server: Server, crowd: list[Listener]) -> None:
    speakers = set()
    for _ in range(WORKERS):
        speakers.add(crowd[0].ask("Hi").worker)
        crowd[0].rest()
    assert len(speakers) == WORKERS


def test_remote_speech_equals_local_speech(server: Server, crowd: list[Listener]) -> None:
    assert len({each.ask("The same.", voice_id="speaker_3").rest() for each in crowd[:WORKERS]}) == 1
    assert spread(crowd[:WORKERS]) == [1] * WORKERS


def test_a_request_over_capacity_is_busy_and_gets_the_first_free_slot(server: Server, crowd: list[Listener]) -> None:
    at_once(crowd)
    late = Listener(server).ask()
    assert late.status == 429
    assert int(late.headers["retry-after"]) > 0
    assert late.error()["code"] == "busy"
    crowd[7].leave()
    server.wait_until(lambda: late.ask().status == 200 or late.rest() == b"")
    assert late.worker == crowd[7].worker
    late.leave()


def test_control_routes_answer_a_full_pool(server: Server, crowd: list[Listener]) -> None:
    at_once(crowd)
    for path in ("/health", "/livez", "/readyz", "/openapi.json"):
        assert [server.get(path) for _ in range(8)] == [200] * 8


def test_errors_of_another_worker_are_the_same(server: Server, crowd: list[Listener]) -> None:
    for text, voice, status, code in (
        ("Hi", "nobody", 404, "unknown_voice"),
        ("[raise]", "speaker_0", 500, "engine_failed"),
        ("[memory]", "speaker_0", 500, "out_of_memory"),
    ):
        for each in crowd[:WORKERS]:
            each.ask(text, voice_id=voice)
            assert (each.status, each.error()["code"]) == (status, code)


def test_a_failed_stream_is_cut_on_every_worker(server: Server, crowd: list[Listener]) -> None:
    for each in crowd[:WORKERS]:
        with pytest.raises(http.client.IncompleteRead):
            each.ask("[raise@30]" + "x" * 50).rest()
    assert spread(crowd[:WORKERS]) == [1] * WORKERS


def test_a_killed_worker_cuts_only_the_streams_that_it_accepted_and_is_restarted(
    server: Server, crowd: list[Listener]
) -> None:
    listeners = at_once(crowd[: 4 * WORKERS], "x" * 140)
    accepted = _accepted_by(server, _process_of(server, "0"))
    victim = _process_of(server, "0")
    victim.kill()
    for each in listeners:
        try:
            assert len(each.rest()) == 140 * 3840
            assert each.port not in accepted
        except (http.client.IncompleteRead, ConnectionError):
            assert each.port in accepted
    server.wait_until(lambda: states(server) == ["ready"] * WORKERS)
    assert victim.pid not in [each.pid for each in server.workers()]
    assert spread(at_once(crowd[-WORKERS:])) == [1] * WORKERS


def test_killing_an_idle_worker_fails_no_other_request(server: Server, crowd: list[Listener]) -> None:
    _process_of(server, "1").kill()
    statuses = []
    for each in crowd[:WORKERS]:
        try:
            statuses.append(each.ask("Hi").status)
        except (ConnectionError, http.client.HTTPException):  # the killed worker had accepted it
            statuses.append(0)
    assert statuses.count(200) >= WORKERS - 1
    server.wait_until(lambda: states(server) == ["ready"] * WORKERS)


def test_a_request_that_kills_workers_is_retried_once(server: Server, crowd: list[Listener]) -> None:
    before = {each.pid for each in server.workers()}
    try:
        killer = crowd[0].ask("[exit]")
        assert (killer.status, killer.error()["code"]) == (503, "worker_died")
    except (ConnectionError, http.client.HTTPException):
        pass  # the worker that had accepted it died
    server.wait_until(lambda: states(server) == ["ready"] * WORKERS)
    killed = before - {each.pid for each in server.workers()}
    assert 1 <= len(killed) <= 2, server.log


def test_a_request_that_hangs_its_engines_is_cut_at_the_second_and_both_are_restarted(
    server: Server, crowd: list[Listener]
) -> None:
    before = {each.pid for each in server.workers()}
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        crowd[0].ask("[hang@40]" + "x" * 100).rest()
    server.wait_until(lambda: states(server) == ["ready"] * WORKERS)
    assert 1 <= len(before - {each.pid for each in server.workers()}) <= 2  # one if that had accepted the request
    assert "the engine has hung for" in server.log


def _accepted_by(server: Server, process: psutil.Process) -> set[int]:
    """The clients' ports of the connections that a worker serves."""
    return {each.raddr.port for each in process.net_connections("tcp") if each.raddr and each.laddr.port == server.port}


def _process_of(server: Server, worker_id: str) -> psutil.Process:
    """The process of a worker, found by the socket that it listens on."""
    for process in server.workers():
        if any(each.laddr.endswith(f"/{worker_id}.sock") for each in process.net_connections("unix") if each.laddr):
            return process
    raise AssertionError(f"no process listens for worker {worker_id}")
