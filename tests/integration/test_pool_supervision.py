"""Supervision: workers that cannot start, spares, reloads and shutdown."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.pool_clients import Listener, at_once, health, states
from tests.integration.shared import KEY, Server, serving

Make = Callable[[], Listener]
SLOW = "fake:frame_seconds=0.02"


@pytest.fixture
def trouble(tmp_path: Path) -> Path:
    """A file whose content makes the loading of a worker fail."""
    return tmp_path / "trouble"


@pytest.fixture
def server(tmp_path: Path, trouble: Path) -> Iterator[Server]:
    with serving(
        tmp_path,
        MODEL_PATH=f"{SLOW},trouble={trouble}",
        WORKERS="2",
        CONCURRENT_REQUESTS_PER_WORKER="1",
        QUEUE_TIMEOUT_SECONDS="20",
        START_TIMEOUT_SECONDS="5",  # on a busy machine even this engine takes seconds
    ) as server:
        server.wait_until(lambda: states(server) == ["ready", "ready"])
        yield server


@pytest.fixture
def listener(server: Server) -> Iterator[Callable[[], Listener]]:
    """Makes listeners, which disconnect at the end."""
    made: list[Listener] = []

    def make() -> Listener:
        made.append(Listener(server))
        return made[-1]

    yield make
    for each in made:
        each.leave()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def kill_one(server: Server) -> None:
    server.workers()[0].kill()


def test_a_worker_that_cannot_load_has_failed_and_the_others_serve(
    server: Server, trouble: Path, listener: Make
) -> None:
    trouble.write_text("memory")
    kill_one(server)
    server.wait_until(lambda: sorted(states(server)) == ["failed", "ready"])
    status, body = health(server)
    assert (status, body["status"]) == (200, "degraded")
    assert any("out of memory" in (each["error"] or "") for each in body["tts_engines"].values())
    assert [server.get(path) for path in ("/livez", "/readyz")] == [200, 200]
    for _ in range(4):
        assert len(listener().ask("Hi").rest()) == 2 * 3840
    trouble.unlink()
    for each in server.workers():
        each.kill()
    server.wait_until(lambda: states(server) == ["ready", "ready"])


def test_a_crash_loop_is_delayed_and_counts_as_failed(server: Server, trouble: Path, listener: Make) -> None:
    trouble.write_text("exits")
    kill_one(server)
    # Not "restarting": on a busy machine a short delay is over before its worker can report it.
    server.wait_until(lambda: sorted(states(server)) == ["failed", "ready"])
    crashes = re.findall(r"worker (\S+) .* (\d) in a row: it loads again in ([\d.]+) seconds", server.log)
    # Of one worker: on a busy machine the other one may have exceeded its start timeout of a second.
    longest = max(([pause for worker, *pause in crashes if worker == each] for each, *_ in crashes), key=len)
    assert [tuple(each) for each in longest[:4]] == [("1", "0.5"), ("2", "1"), ("3", "2"), ("4", "4")]

    def speaks() -> bool:
        try:
            return len(listener().ask("Hi").rest()) == 2 * 3840
        except (http.client.HTTPException, ConnectionError):
            return False  # the worker that crashes had accepted the connection

    server.wait_until(speaks)
    trouble.unlink()
    server.wait_until(lambda: states(server) == ["ready", "ready"])


def test_a_start_without_progress_is_ended(server: Server, trouble: Path, listener: Make) -> None:
    trouble.write_text("hangs")
    kill_one(server)
    server.wait_until(lambda: "loading has made no progress" in server.log)
    trouble.unlink()
    server.wait_until(lambda: states(server) == ["ready", "ready"])
    assert server.process.poll() is None


def test_waiting_requests_move_to_a_free_slot(server: Server, listener: Make) -> None:
    first, second = at_once([listener(), listener()])
    waiting = [listener() for _ in range(4)]
    answers = threading.Thread(target=at_once, args=(waiting, "Hi"))
    answers.start()
    server.wait_until(lambda: sum(queued(server)) == 4)
    second.leave()  # all four go there, wherever they waited
    answers.join(60)
    assert {each.worker for each in waiting} == {second.worker}
    first.leave()


def test_a_stopped_worker_is_replaced_while_the_other_serves(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH=SLOW, WORKERS="2", HTTP_WORKERS="1", RESUME="off") as server:
        server.wait_until(lambda: states(server) == ["ready", "ready"])
        pids = {each["worker_id"]: each["pid"] for each in system_status(server)["workers"]}
        speaking = Listener(server).ask()
        stopped = psutil.Process(pids[speaking.worker])
        stopped.suspend()
        answered = at_once([Listener(server) for _ in range(4)], "Hi")  # two are given to the stopped worker at first
        assert [each.status for each in answered] == [200] * 4
        assert {each.worker for each in answered} == {"0", "1"} - {speaking.worker}
        assert stopped.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        with pytest.raises(http.client.IncompleteRead):
            speaking.rest()  # cut once its worker is killed
        server.wait_until(lambda: "its process was stopped (by SIGSTOP or a debugger) and was killed" in server.log)
        server.wait_until(lambda: states(server) == ["ready", "ready"])
        for each in (speaking, *answered):
            each.leave()


def system_status(server: Server) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/system-status", headers={"X-API-Key": KEY})
        status = json.loads(connection.getresponse().read())
        assert isinstance(status, dict)
        return status
    finally:
        connection.close()


def queued(server: Server) -> list[int]:
    return [each["queued"] for each in system_status(server)["workers"]]


def test_stopping_finishes_remote_streams_and_refuses_new_requests(server: Server, listener: Make) -> None:
    children, folders = server.workers(), list((Path(server_folder(server)) / "spool").glob("csm-serve-*"))
    speaking = at_once([listener(), listener()], "x" * 100)
    waiting = listener()
    told = threading.Thread(target=waiting.ask, args=("Hi",))
    told.start()
    server.wait_until(lambda: sum(queued(server)) == 1)
    server.process.send_signal(signal.SIGTERM)
    told.join(60)
    assert (waiting.status, waiting.error()["code"]) == (503, "draining")
    assert server.get("/readyz") == 503
    late = listener().ask("Hi")
    assert (late.status, late.error()["code"]) == (503, "draining")
    assert int(late.headers["retry-after"]) > 0
    assert [len(each.rest()) for each in speaking] == [100 * 3840] * 2
    assert server.process.wait(timeout=60) == 0
    assert gone(children)
    assert not any(folder.exists() for folder in folders)


def server_folder(server: Server) -> str:
    return str(psutil.Process(server.process.pid).cwd())


def test_stopping_waits_no_longer_than_the_graceful_timeout(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH=SLOW, WORKERS="2", GRACEFUL_TIMEOUT_SECONDS="1") as server:
        server.wait_until(lambda: states(server) == ["ready", "ready"])
        children, speaking = server.workers(), at_once([Listener(server), Listener(server)])
        server.process.send_signal(signal.SIGTERM)
        for each in speaking:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                each.rest()
            each.leave()
        assert server.process.wait(timeout=60) == 0
        assert gone(children)


def test_a_spare_loads_and_serves_nothing_until_a_worker_exits(server: Server, listener: Make) -> None:
    server.process.send_signal(signal.SIGTTIN)
    server.wait_until(lambda: "this spare waits for one" in server.log)
    assert len(server.workers()) == 3
    assert states(server) == ["ready", "ready"]
    kill_one(server)
    server.wait_until(lambda: states(server) == ["ready", "ready"])
    assert server.stop() == 0


def test_a_reload_replaces_all_workers_and_cuts_no_stream(server: Server, listener: Make) -> None:
    before = server.workers()
    speaking = at_once([listener(), listener()], "x" * 60)
    server.process.send_signal(signal.SIGHUP)
    assert [len(each.rest()) for each in speaking] == [60 * 3840] * 2
    server.wait_until(lambda: gone(before))
    server.wait_until(lambda: states(server) == ["ready", "ready"])
    assert len(listener().ask("Hi").rest()) == 2 * 3840


def test_workers_without_a_master_exit(server: Server, listener: Make) -> None:
    children = server.workers()
    os.kill(server.process.pid, signal.SIGKILL)
    pause = threading.Event()
    while not gone(children):
        pause.wait(0.05)
    with pytest.raises(ConnectionError):
        listener().ask("Hi")
