"""The service as real processes: gunicorn, its workers, raw sockets and curl."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import wave
from pathlib import Path
from typing import Any

import pytest

from tests.tools import need

SLOW = "fake:frame_seconds=0.02"


def read_until(connection: socket.socket, expected: bytes) -> bytes:
    data = b""
    while expected not in data:
        received = connection.recv(65536)
        assert received, data
        data += received
    return data


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while received := connection.recv(65536):
        data += received
    return data


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [need("curl"), "-sS", "--max-time", "30", *arguments], capture_output=True, timeout=110, check=False
    )


def test_first_bytes_are_sent_while_speech_is_generated(serve: Any) -> None:
    server = serve(MODEL_PATH=SLOW)
    with server.ask(f"text={'x' * 100}") as connection:
        data = read_until(connection, b"RIFF")
        assert b" 200 OK" in data
        assert server.outcomes() == []  # logged when it ends
        assert len(read_all(connection)) > 90 * 3840
    server.wait_until(lambda: server.outcomes() == ["ok"])


def test_curl_detects_a_broken_stream(serve: Any) -> None:
    server = serve()
    for name in ("wav", "mp3"):
        broken = curl(
            "-g", "-H", "X-API-Key: first-key", f"{server.url}/tts/generate?format={name}&text=[raise@60]xx" + "x" * 99
        )
        assert broken.returncode == 18
        assert len(broken.stdout) > 100
    before = curl("-g", "-w", "%{http_code}", "-H", "X-API-Key: first-key", f"{server.url}/tts/generate?text=[raise]")
    assert before.returncode == 0
    assert before.stdout.endswith(b"500")
    server.wait_until(lambda: server.outcomes() == ["failed"] * 3)


@pytest.mark.parametrize("text", ["x" * 4000, "[hang]"])
def test_a_disconnect_frees_the_slot(serve: Any, text: str) -> None:
    server = serve(MODEL_PATH=SLOW, CONCURRENT_REQUESTS_PER_WORKER="1")
    speaking = server.ask(f"text={text}")
    if text != "[hang]":
        read_until(speaking, b"RIFF")
    with server.ask("text=Hello") as queued:
        speaking.close()
        server.wait_until(lambda: server.outcomes()[:1] == ["left"])
        if text != "[hang]":
            assert b" 200 OK" in read_until(queued, b"RIFF")


def test_a_disconnect_while_queued_frees_its_place(serve: Any) -> None:
    server = serve(MODEL_PATH=SLOW, CONCURRENT_REQUESTS_PER_WORKER="1", MAX_QUEUED_REQUESTS="1")
    with server.ask(f"text={'x' * 4000}") as speaking:
        read_until(speaking, b"RIFF")
        queued = server.ask("text=second")
        server.wait_until(lambda: server.queued() == 1)
        assert server.get("/tts/generate?text=third") == 429
        queued.close()
        server.wait_until(lambda: "left" in server.outcomes())
        speaking.close()
        server.wait_until(lambda: server.get("/tts/generate?text=fourth") == 200)


def test_a_full_queue_and_a_queue_timeout_are_429(serve: Any) -> None:
    server = serve(
        MODEL_PATH=SLOW, CONCURRENT_REQUESTS_PER_WORKER="1", MAX_QUEUED_REQUESTS="1", QUEUE_TIMEOUT_SECONDS="0.3"
    )
    with server.ask(f"text={'x' * 4000}") as speaking:
        read_until(speaking, b"RIFF")
        with server.ask("text=queued") as queued:
            server.wait_until(lambda: server.queued() == 1)
            assert server.get("/tts/generate?text=full") == 429
            head = read_until(queued, b"}").lower()
    assert b" 429 " in head
    assert b"retry-after: " in head
    assert b"within 0.3 seconds" in head


def test_a_wrong_key_is_rejected_before_the_body_is_sent(serve: Any) -> None:
    server = serve()
    head = "POST /voices HTTP/1.1\nHost: service\nX-API-Key: wrong\nContent-Length: 200000000"
    with server.connect(head) as connection:
        assert b" 401 " in read_until(connection, b"unauthorized")
    with server.connect(head + "\nExpect: 100-continue") as connection:
        assert read_until(connection, b"unauthorized").startswith(b"HTTP/1.1 401 ")


def test_an_oversized_body_is_rejected_before_it_is_sent(serve: Any) -> None:
    server = serve()
    head = "POST /tts/generate HTTP/1.1\nHost: service\nX-API-Key: first-key\nContent-Length: 200000000"
    with server.connect(head) as connection:
        assert b" 413 " in read_until(connection, b"too_large")


def test_keys_are_never_logged(serve: Any) -> None:
    server = serve(LOG_LEVEL="DEBUG")
    for path in ("/tts/generate?text=Hi&api_key=first-key", "/nothing?api_key=second-key", "/x?api_key=wrong-guess"):
        assert server.get(path) is not None
    with server.connect("GET /first-key HTTP/1.1\nHost: x\nX-API-Key: second-key") as connection:
        assert b" 404 " in read_until(connection, b"not_found")
    with server.connect("GET / HTTP/1.1\nHost: x\nX-API-Key: first-key\nBad Header") as connection:
        assert b" 400 " in read_until(connection, b"\r\n")
    assert server.stop() == 0
    for key in ("first-key", "second-key", "wrong-guess"):
        assert key not in server.log


def test_sigterm_lets_streams_finish(serve: Any) -> None:
    server = serve(MODEL_PATH=SLOW, WORKERS="2")
    children = server.workers()
    assert len(children) == 2
    with server.ask(f"format=raw_pcm&text={'x' * 50}") as connection:
        data = read_until(connection, b"\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        data += read_all(connection)
    assert data.endswith(b"0\r\n\r\n")
    assert len(data) > 50 * 3840
    assert server.process.wait(timeout=60) == 0
    assert not any(child.is_running() for child in children)


def test_a_stream_is_cut_after_the_graceful_timeout(serve: Any) -> None:
    server = serve(MODEL_PATH=SLOW, GRACEFUL_TIMEOUT_SECONDS="1")
    with server.ask(f"format=raw_pcm&text={'x' * 4000}") as connection:
        data = read_until(connection, b"\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        data += read_all(connection)
    assert not data.endswith(b"0\r\n\r\n")
    assert server.process.wait(timeout=60) == 0


def test_sigint_stops_at_once(serve: Any) -> None:
    server = serve(MODEL_PATH=SLOW)
    children = server.workers()
    with server.ask(f"text={'x' * 4000}") as connection:
        read_until(connection, b"RIFF")
        server.process.send_signal(signal.SIGINT)
        assert not read_all(connection).endswith(b"0\r\n\r\n")
    assert server.process.wait(timeout=60) == 0
    assert not any(child.is_running() for child in children)


def test_a_dead_worker_is_replaced(serve: Any) -> None:
    server = serve(WORKERS="2")
    dead = server.workers()[0]
    dead.kill()
    server.wait_until(lambda: len(server.workers()) == 2 and dead.pid not in [each.pid for each in server.workers()])
    server.wait_for(200)


def test_health_responds_while_loading(serve: Any) -> None:
    server = serve(wait=False, MODEL_PATH="fake:load_seconds=1")
    server.wait_for(202, "/health")
    assert server.get("/livez") == 200
    assert server.get("/tts/generate?text=Hi") == 503
    server.wait_for(200, "/health")


def test_a_failed_engine_is_reported(serve: Any) -> None:
    server = serve(wait=False, MODEL_PATH="/no/such/model")
    server.wait_for(500, "/health")
    assert "/no/such/model" in server.log
    assert server.stop() == 0


@pytest.mark.parametrize("command", ["curl", "csm-serve"])
def test_the_printed_commands_create_a_playable_file(serve: Any, tmp_path: Path, command: str) -> None:
    if command == "curl":
        need("curl")
    server = serve(wait=False, HOST="0.0.0.0")
    assert server.process.stdout is not None
    printed = (each.decode() for each in iter(server.process.stdout.readline, b""))
    line = next(each for each in printed if Path(each.partition(" ")[0]).name == command)
    assert "first-key" not in line
    subprocess.run(
        ["sh", "-c", line],
        cwd=tmp_path,
        timeout=60,
        check=True,
        env={"API_KEY": "first-key,b", "PATH": "/usr/bin:/bin"},
    )
    header = (tmp_path / "speech.wav").read_bytes()[:44]
    assert (header[:4], header[8:12]) == (b"RIFF", b"WAVE")
    with wave.open(str(tmp_path / "speech.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert len(file.readframes(240_000)) > 48_000


def test_every_line_of_a_json_log_is_json(serve: Any) -> None:
    server = serve(LOG_FORMAT="json")
    assert curl("-H", "X-API-Key: first-key", f"{server.url}/tts/generate?text=Hi").returncode == 0
    url = f"{server.url}/tts/generate?text=[raise@60]" + "x" * 99
    assert curl("-g", "-H", "X-API-Key: first-key", url).returncode == 18
    assert server.stop() == 0
    entries = [json.loads(line) for line in server.log.splitlines()]
    spoken = next(entry for entry in entries if entry.get("outcome") == "ok" and entry["path"] == "/tts/generate")
    assert (spoken["voice"], spoken["format"], spoken["audio_seconds"]) == ("default", "wav", 0.16)
    assert spoken["first_audio_ms"] >= 0
    warnings = [entry["message"] for entry in entries if entry["level"] == "WARNING"]
    assert any("was cut" in message and "as scripted" in message for message in warnings)


def test_invalid_settings_stop_the_start(serve: Any) -> None:
    server = serve(wait=False, TTS_TOP_K="0", API_KEY="")
    assert server.process.wait(timeout=60) == 2
    assert "TTS_TOP_K is '0'" in server.log
    assert "API_KEY is not set" in server.log
    assert "Traceback" not in server.log
