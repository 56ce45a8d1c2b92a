"""Metrics, status and log of a service of real processes, also when its workers die."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.shared import KEY, Server, serving

WORKERS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "WORKERS": str(WORKERS),
        "MODEL_PATH": "fake:frame_seconds=0.02",
        "CONCURRENT_REQUESTS_PER_WORKER": "4",
        "LOG_FORMAT": "json",
    }
    with serving(tmp_path_factory.mktemp("observed"), **settings) as started:
        started.wait_until(lambda: states(started) == ["ready"] * WORKERS)
        yield started


def fetch(server: Server, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers={"X-API-Key": KEY})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return text
    finally:
        connection.close()


def status(server: Server) -> Any:
    return json.loads(fetch(server, "/system-status"))


def states(server: Server) -> list[str]:
    try:
        return [each["state"] for each in status(server)["workers"]]
    except OSError:  # the worker was killed before it responded
        return []


def counts(server: Server) -> dict[str, float]:
    """Each metric, summed over its labels, and `name:value` for each value of a label."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(fetch(server, "/metrics")):
        for sample in family.samples:
            for name in (sample.name, *(f"{sample.name}:{value}" for value in sample.labels.values())):
                sums[name] = sums.get(name, 0.0) + sample.value
    return sums


def ended(seen: dict[str, float]) -> float:
    return sum(seen[f"csm_requests_{way}_total"] for way in ("finished", "aborted", "failed"))


def is_idle(server: Server) -> bool:
    seen = counts(server)
    return ended(seen) == seen["csm_requests_admitted_total"] and seen["csm_slots_active"] == 0


def begin(server: Server, text: str) -> socket.socket:
    """A stream that has received its first audio."""
    connection = server.ask(f"format=raw_pcm&text={text}")
    got = b""
    while b"\r\n\r\n" not in got:
        part = connection.recv(65536)
        assert part, got
        got += part
    assert b" 200 OK" in got
    return connection


def test_every_worker_is_listed_with_its_own_process(server: Server) -> None:
    told = status(server)["workers"]
    assert sorted(each["pid"] for each in told) == sorted(each.pid for each in server.workers())
    assert [each["worker_id"] for each in told] == [str(index) for index in range(WORKERS)]
    assert {(each["engine"], each["capacity"]) for each in told} == {("fake", 4)}


def test_admitted_requests_are_finished_aborted_or_failed(server: Server) -> None:
    before = counts(server)
    for text in ("Hello", "Hello%20again", "[raise]", "[raise@5]" + "x" * 20):
        with server.ask(f"text={text}") as stream:
            while stream.recv(65536):
                pass
    server.get("/tts/generate?text=")  # refused before it could be admitted
    begin(server, "x" * 3000).close()
    server.wait_until(lambda: is_idle(server))
    seen = {name: value - before.get(name, 0.0) for name, value in counts(server).items()}
    assert seen["csm_requests_admitted_total"] == 5
    assert seen["csm_requests_finished_total"] == 2
    assert seen["csm_requests_aborted_total:client_left"] == 1
    assert seen["csm_requests_failed_total:engine_failed"] == 2
    assert seen["csm_requests_total:422"] == 1


def test_every_worker_reports_the_metrics_of_all(server: Server) -> None:
    server.wait_until(lambda: is_idle(server))
    answers = [counts(server) for _ in range(8)]  # each over a connection of its own: several workers answer
    for name in ("csm_requests_admitted_total", "csm_requests_finished_total", "csm_audio_seconds_total"):
        assert len({each[name] for each in answers}) == 1


def test_active_slots_are_reported(server: Server) -> None:
    with ExitStack() as streams:
        for _ in range(2 * WORKERS):
            streams.enter_context(begin(server, "x" * 3000))
        server.wait_until(lambda: counts(server)["csm_slots_active"] == 2 * WORKERS)
        seen = counts(server)
        assert seen["csm_requests_admitted_total"] - ended(seen) == 2 * WORKERS
        assert [each["active"] for each in status(server)["workers"]] == [2] * WORKERS
    server.wait_until(lambda: is_idle(server))


def test_polling_delays_no_stream(server: Server) -> None:
    """The engine is four times as fast as real time: a stream underruns only if something blocks it."""
    before = counts(server)
    done = threading.Event()

    def poll() -> None:
        while not done.wait(0.1):
            for path in ("/system-status", "/metrics", "/health"):
                fetch(server, path)

    polling = threading.Thread(target=poll)
    polling.start()
    try:
        with begin(server, "x" * 150) as stream:
            while stream.recv(65536):
                pass
    finally:
        done.set()
        polling.join(60)
    server.wait_until(lambda: is_idle(server))
    seen = counts(server)
    assert seen["csm_requests_finished_total"] == before["csm_requests_finished_total"] + 1
    assert seen["csm_underruns_total"] == before["csm_underruns_total"]
    assert seen["csm_audio_seconds_total"] - before["csm_audio_seconds_total"] == pytest.approx(12.0)


def test_a_kill_loses_no_counts_and_leaves_no_file(server: Server) -> None:
    """Kill all workers at once: their streams are lost and must not count as active for ever."""
    server.wait_until(lambda: is_idle(server))
    before, master = counts(server), psutil.Process(server.process.pid)
    files, dead = master.num_fds(), server.workers()
    with ExitStack() as streams:
        for _ in range(4):
            streams.enter_context(begin(server, "x" * 3000))
        for worker in dead:
            worker.kill()
        server.wait_until(lambda: not {each.pid for each in dead} & {each.pid for each in server.workers()})
        server.wait_until(lambda: server.get("/readyz") == 200 and states(server) == ["ready"] * WORKERS)
    seen = counts(server)
    assert seen["csm_requests_failed_total:worker_died"] - before["csm_requests_failed_total:worker_died"] == 4
    assert seen["csm_requests_finished_total"] == before["csm_requests_finished_total"]
    assert seen["csm_worker_restarts_total"] - before["csm_worker_restarts_total"] == WORKERS
    assert seen["csm_requests_admitted_total"] == ended(seen)
    assert master.num_fds() <= files


def test_each_request_is_logged_and_no_line_has_a_key(server: Server) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", f"/tts/generate?text=Hello&format=mp3&api_key={KEY}", headers={"X-Request-ID": "mine-1"})
    answer = connection.getresponse()
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert answer.read()
    connection.close()

    def lines() -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        return [each for each in entries if each.get("id") == "mine-1"]

    server.wait_until(lambda: bool(lines()))
    (line,) = lines()
    assert (line["voice"], line["format"], line["outcome"], line["status"]) == ("default", "mp3", "ok", 200)
    assert line["audio_seconds"] == 0.4
    assert line["first_audio_ms"] >= 0
    assert line["real_time_factor"] > 0
    assert KEY not in server.log
