"""WebSockets against real processes: two workers behind one port, clients that leave, and the end of it all."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.integration.pool_clients import states
from tests.integration.shared import KEY, Server, serving

LONG = "x" * 3000  # minutes of the fake engine's, at the pace of these servers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("live"),
        MODEL_PATH="fake:frame_seconds=0.02",
        WORKERS="2",
        CONCURRENT_REQUESTS_PER_WORKER="1",
        MAX_QUEUED_REQUESTS="0",
    ) as server:
        server.wait_until(lambda: states(server) == ["ready"] * 2)
        yield server


def opened(
    server: Server, path: str = "/ws", query: str = "", **headers: str
) -> AbstractContextManager[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}{path}{query}"
    return connect(url, additional_headers=headers, max_size=None)


def dial(server: Server, path: str = "/ws") -> AbstractContextManager[ClientConnection]:
    return opened(server, path, **{"X-API-Key": KEY})


def say(connection: ClientConnection, text: str, **parameters: Any) -> None:
    connection.send(json.dumps({"text": text, **parameters}))


def hear(connection: ClientConnection) -> dict[str, Any]:
    """The last message of a text."""
    while True:
        message = json.loads(connection.recv())
        if message["type"] in ("completion", "error"):
            return dict(message)


def begin(connection: ClientConnection, text: str = LONG, **parameters: Any) -> None:
    """Have a text spoken, up to its first audio."""
    say(connection, text, **parameters)
    assert json.loads(connection.recv())["status"] == "started"
    assert json.loads(connection.recv())["type"] == "audio_chunk"


def slots_are_free(server: Server) -> None:
    """All of them: as many texts at once as there are slots, and none waits."""

    def both_speak() -> bool:
        with dial(server) as first, dial(server) as second:
            for connection in (first, second):
                say(connection, "Hi")
            return all(hear(connection)["type"] == "completion" for connection in (first, second))

    server.wait_until(both_speak)


def test_texts_of_many_connections_are_spoken_by_all_workers(server: Server) -> None:
    with dial(server) as first, dial(server) as second, dial(server) as third:
        for connection in (first, second):
            begin(connection)
        say(third, "Hello.")
        assert hear(third)["code"] == "busy"
        first.send(json.dumps({"type": "cancel"}))
        assert hear(first)["cancelled"] is True
        server.wait_until(lambda: (say(third, "Hello."), hear(third)["type"])[1] == "completion")
        assert second.recv()  # and the other speaks on
    slots_are_free(server)


@pytest.mark.parametrize("how", ["close", "vanish"])
def test_leaving_frees_the_slot_at_once(server: Server, how: str) -> None:
    first, second = dial(server), dial(server)
    with first as one, second as two:
        for connection in (one, two):
            begin(connection)
        if how == "vanish":
            for connection in (one, two):
                connection.socket.shutdown(socket.SHUT_RDWR)
    slots_are_free(server)


def test_the_key_opens_the_door_in_three_ways_and_stands_in_no_log(server: Server) -> None:
    for headers, query in (
        ({"X-API-Key": "second-key"}, ""),
        ({"Authorization": "Bearer second-key"}, ""),
        ({}, "?api_key=second-key"),
    ):
        with opened(server, query=query, **headers) as connection:
            say(connection, "Hi")
            assert hear(connection)["type"] == "completion"
    for headers, query in (({}, ""), ({"X-API-Key": "wrong"}, ""), ({}, "?api_key=wrong")):
        with pytest.raises(InvalidStatus) as refused, opened(server, query=query, **headers):
            pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["detail"] == "Invalid or missing API Key"
    assert "second-key" not in server.log
    assert "api_key" not in server.log


def test_an_unknown_voice_is_a_404(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused, dial(server, "/api/nobody"):
        pass
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body)["code"] == "unknown_voice"


def test_a_message_that_is_too_large_closes_the_connection(server: Server) -> None:
    with dial(server) as connection:
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012  either may find it closed
            connection.send("x" * (2 << 20))
            connection.recv()
        # what was still on its way when the server closed may have reset the connection before the code was read
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    with dial(server) as connection:
        begin(connection, "Hello.")
        assert hear(connection)["type"] == "completion"


def test_audio_is_not_compressed_on_the_way(server: Server) -> None:
    with dial(server) as connection:
        assert connection.protocol.extensions == []


def test_a_worker_that_dies_in_the_middle_is_an_error_or_the_end(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH="fake:frame_seconds=0.02", WORKERS="2") as server:
        with dial(server) as connection:
            begin(connection, "[exit@20]" + LONG)
            try:
                answer = hear(connection)
            except ConnectionClosed:
                pass  # the connection was with the worker that died
            else:
                assert (answer["type"], answer["code"]) == ("error", "worker_died")
        server.wait_until(lambda: server.get("/readyz") == 200)
        with dial(server) as connection:
            say(connection, "Hi")
            assert hear(connection)["type"] == "completion"


def test_at_the_end_the_text_that_is_spoken_is_said_and_those_that_wait_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH="fake:frame_seconds=0.02", GRACEFUL_TIMEOUT_SECONDS="20") as server:
        with dial(server) as speaking, dial(server) as idle:
            begin(speaking, "x" * 60)
            say(speaking, "Waiting.")
            server.process.send_signal(signal.SIGTERM)
            answers = [hear(speaking), hear(speaking)]
            assert sorted((answer["type"], answer.get("code")) for answer in answers) == [
                ("completion", None),
                ("error", "draining"),
            ]
            assert max(answer.get("duration_ms", 0) for answer in answers) == 60 * 80
            for connection in (speaking, idle):
                with pytest.raises(ConnectionClosed) as closed:
                    connection.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
        assert server.process.wait(timeout=60) == 0
    assert "Traceback" not in server.log


def test_at_the_end_a_text_that_goes_on_for_too_long_is_cut(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH="fake:frame_seconds=0.02", GRACEFUL_TIMEOUT_SECONDS="1") as server:
        with dial(server) as connection:
            begin(connection)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                hear(connection)
        assert server.process.wait(timeout=60) == 0
