"""WebSockets against real server processes: two workers on one port, disconnects, crashes, shutdown."""

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

LONG = "x" * 3000  # a minute at the fake engine's pace in these tests


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


def connect_to(
    server: Server, path: str = "/ws", query: str = "", **headers: str
) -> AbstractContextManager[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}{path}{query}"
    return connect(url, additional_headers=headers, max_size=None)


def connect_with_key(server: Server, path: str = "/ws") -> AbstractContextManager[ClientConnection]:
    return connect_to(server, path, **{"X-API-Key": KEY})


def send_text(connection: ClientConnection, text: str, **parameters: Any) -> None:
    connection.send(json.dumps({"text": text, **parameters}))


def receive_last(connection: ClientConnection) -> dict[str, Any]:
    """Skip to the last message of a text, its completion or error."""
    while True:
        message = json.loads(connection.recv())
        if message["type"] in ("completion", "error"):
            return dict(message)


def start_text(connection: ClientConnection, text: str = LONG, **parameters: Any) -> None:
    """Send a text and receive its messages up to the first audio."""
    send_text(connection, text, **parameters)
    assert json.loads(connection.recv())["status"] == "started"
    assert json.loads(connection.recv())["type"] == "audio_chunk"


def wait_for_free_slots(server: Server) -> None:
    """Wait until as many concurrent texts succeed as there are slots; nothing can be queued."""

    def both_complete() -> bool:
        with connect_with_key(server) as first, connect_with_key(server) as second:
            for connection in (first, second):
                send_text(connection, "Hi")
            return all(receive_last(connection)["type"] == "completion" for connection in (first, second))

    server.wait_until(both_complete)


def test_texts_of_many_connections_are_distributed_over_the_workers(server: Server) -> None:
    with connect_with_key(server) as first, connect_with_key(server) as second, connect_with_key(server) as third:
        for connection in (first, second):
            start_text(connection)
        send_text(third, "Hello.")
        assert receive_last(third)["code"] == "busy"
        first.send(json.dumps({"type": "cancel"}))
        assert receive_last(first)["cancelled"] is True
        server.wait_until(lambda: (send_text(third, "Hello."), receive_last(third)["type"])[1] == "completion")
        assert second.recv()  # the other text continues
    wait_for_free_slots(server)


@pytest.mark.parametrize("disconnect", ["close", "shutdown"])
def test_a_disconnect_frees_the_slot_at_once(server: Server, disconnect: str) -> None:
    first, second = connect_with_key(server), connect_with_key(server)
    with first as one, second as two:
        for connection in (one, two):
            start_text(connection)
        if disconnect == "shutdown":
            for connection in (one, two):
                connection.socket.shutdown(socket.SHUT_RDWR)
    wait_for_free_slots(server)


def test_the_key_is_accepted_in_three_places_and_never_logged(server: Server) -> None:
    for headers, query in (
        ({"X-API-Key": "second-key"}, ""),
        ({"Authorization": "Bearer second-key"}, ""),
        ({}, "?api_key=second-key"),
    ):
        with connect_to(server, query=query, **headers) as connection:
            send_text(connection, "Hi")
            assert receive_last(connection)["type"] == "completion"
    for headers, query in (({}, ""), ({"X-API-Key": "wrong"}, ""), ({}, "?api_key=wrong")):
        with pytest.raises(InvalidStatus) as rejected, connect_to(server, query=query, **headers):
            pass
        assert rejected.value.response.status_code == 401
        assert json.loads(rejected.value.response.body)["detail"] == "Invalid or missing API Key"
    assert "second-key" not in server.log
    assert "api_key=" not in server.log  # api_key_1 is the name of a key


def test_an_unknown_voice_is_a_404(server: Server) -> None:
    with pytest.raises(InvalidStatus) as rejected, connect_with_key(server, "/api/nobody"):
        pass
    assert rejected.value.response.status_code == 404
    assert json.loads(rejected.value.response.body)["code"] == "unknown_voice"


def test_an_oversized_message_closes_the_connection(server: Server) -> None:
    with connect_with_key(server) as connection:
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012  either call may find it closed
            connection.send("x" * (2 << 20))
            connection.recv()
        # data in flight when the server closes may reset the connection before the code is read
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    with connect_with_key(server) as connection:
        start_text(connection, "Hello.")
        assert receive_last(connection)["type"] == "completion"


def test_compression_is_not_negotiated(server: Server) -> None:
    with connect_with_key(server) as connection:
        assert connection.protocol.extensions == []


def test_a_worker_crash_is_an_error_or_closes_the_connection(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH="fake:frame_seconds=0.02", WORKERS="2") as server:
        with connect_with_key(server) as connection:
            start_text(connection, "[exit@20]" + LONG)
            try:
                message = receive_last(connection)
            except ConnectionClosed:
                pass  # the connection was to the worker that crashed
            else:
                assert (message["type"], message["code"]) == ("error", "worker_died")
        server.wait_until(lambda: server.get("/readyz") == 200)
        with connect_with_key(server) as connection:
            send_text(connection, "Hi")
            assert receive_last(connection)["type"] == "completion"


def test_shutdown_completes_the_current_text_and_fails_the_queued_ones(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH="fake:frame_seconds=0.02", GRACEFUL_TIMEOUT_SECONDS="20") as server:
        with connect_with_key(server) as speaking, connect_with_key(server) as idle:
            start_text(speaking, "x" * 60)
            send_text(speaking, "Waiting.")
            server.process.send_signal(signal.SIGTERM)
            messages = [receive_last(speaking), receive_last(speaking)]
            assert sorted((message["type"], message.get("code")) for message in messages) == [
                ("completion", None),
                ("error", "draining"),
            ]
            assert max(message.get("duration_ms", 0) for message in messages) == 60 * 80
            for connection in (speaking, idle):
                with pytest.raises(ConnectionClosed) as closed:
                    connection.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
        assert server.process.wait(timeout=60) == 0
    assert "Traceback" not in server.log


def test_shutdown_cuts_a_text_that_exceeds_the_graceful_timeout(tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH="fake:frame_seconds=0.02", GRACEFUL_TIMEOUT_SECONDS="1") as server:
        with connect_with_key(server) as connection:
            start_text(connection)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                receive_last(connection)
        assert server.process.wait(timeout=60) == 0
