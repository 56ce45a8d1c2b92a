"""Limits of API keys over every protocol: each refusal has the form that its clients read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.access.api_keys import ApiKey, hash_key
from app.access.key_file import edited_keys
from app.main import create_app
from app.settings import Settings

NOW = 1_000_000_060.0  # 20 s before the next minute
OPERATOR, LIMITED = {"X-API-Key": "first-key"}, {"X-API-Key": "limited"}
TEXT = "Hello there."


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """A service with a key that may make one request a minute, and has made it."""
    with edited_keys(tmp_path / "keys.json") as keys:
        keys.append(ApiKey(name="limited", sha256=hash_key("limited"), requests_per_minute=1, weight=2.0))
        keys.append(ApiKey(name="other", sha256=hash_key("other")))
    settings = Settings(
        api_key=("first-key",),
        api_keys_file=tmp_path / "keys.json",
        model_path="fake",
        voices_dir=tmp_path / "voices",
        preloaded_voices_dir=tmp_path / "preloaded",
        tts_normalize="off",
        concurrent_requests_per_worker=2,
        _env_file=None,
    )
    app = create_app(settings)
    with TestClient(app) as started:
        pause = threading.Event()
        while app.state.service.host.status().state != "ready":
            pause.wait(0.002)
        app.state.service.pool.dispatcher.limiter.clock = lambda: NOW
        assert started.post("/tts/generate", json={"text": TEXT}, headers=LIMITED).status_code == 200
        yield started


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tts/generate", {"text": TEXT}),
        ("/v1/audio/speech", {"input": TEXT, "model": "csm-1b", "voice": "alloy"}),
        ("/v1/text-to-speech/speaker_0", {"text": TEXT}),
        ("/generate", {"text": TEXT}),
    ],
)
def test_a_request_beyond_the_limit_is_told_when_to_come_again(client: TestClient, path: str, body: Any) -> None:
    answer = client.post(path, json=body, headers=LIMITED)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "20"
    message = "key 'limited' has used its 1 requests a minute (requests_per_minute): try again in 20 s"
    read = answer.json()
    assert read["code"] == "request_rate_limit"
    if path.startswith("/v1/text-to-speech"):
        assert read["detail"] == {"status": "rate_limit_exceeded", "message": message}
        return
    assert read["detail"] == message
    if path.startswith("/v1"):
        assert read["error"] == {
            "message": message,
            "type": "rate_limit_error",
            "param": None,
            "code": "request_rate_limit",
        }
    assert client.post(path, json=body, headers=OPERATOR).status_code == 200


def test_a_websocket_tells_of_the_limit_and_goes_on(client: TestClient) -> None:
    with client.websocket_connect("/ws", headers=LIMITED) as socket:
        for _ in range(2):
            socket.send_json({"text": TEXT})
            error = socket.receive_json()
            assert (error["type"], error["code"], error["retry_after"]) == ("error", "request_rate_limit", 20)


def test_elevenlabs_socket_closes_with_the_limit(client: TestClient) -> None:
    with client.websocket_connect("/v1/text-to-speech/speaker_0/stream-input", headers=LIMITED) as socket:
        socket.send_json({"text": TEXT, "flush": True})
        error = socket.receive_json()
        assert (error["error"], error["code"]) == ("request_rate_limit", 1008)
        assert "try again in 20 s" in error["message"]


def test_a_response_of_a_conversation_fails_with_the_limit(client: TestClient) -> None:
    with client.websocket_connect("/v1/realtime", headers=LIMITED) as socket:
        content = [{"type": "input_text", "text": TEXT}]
        item = {"type": "message", "role": "user", "content": content}
        socket.send_json({"type": "conversation.item.create", "item": item})
        socket.send_json({"type": "response.create"})
        while (event := json.loads(socket.receive_text()))["type"] != "response.done":
            assert event["type"] != "error"
        assert event["response"]["status"] == "failed"
        error = event["response"]["status_details"]["error"]
        assert error["code"] == "request_rate_limit"
        assert "try again in 20 s" in error["message"]


def test_a_removed_key_starts_no_more_speech_on_its_open_connections(client: TestClient) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    path: Path = service.settings.api_keys_file
    before = path.read_bytes()
    with edited_keys(path) as keys:
        keys.append(ApiKey(name="leaver", sha256=hash_key("leaver")))
    service.keys._next_check = 0.0
    with client.websocket_connect("/ws", headers={"X-API-Key": "leaver"}) as socket:
        path.write_bytes(before)
        service.keys._next_check = 0.0
        socket.send_json({"text": TEXT})
        assert socket.receive_json()["code"] == "unauthorized"


def test_a_key_sees_its_own_use_and_the_operator_that_of_all(client: TestClient) -> None:
    def status(headers: dict[str, str]) -> dict[str, Any]:
        return {each["name"]: each for each in client.get("/system-status", headers=headers).json()["keys"]}

    for headers in (OPERATOR, LIMITED):
        client.post("/tts/generate", json={"text": TEXT}, headers=headers)
    everything = status(OPERATOR)
    assert everything.keys() == {"api_key_1", "limited", "other"}
    limited = everything["limited"]
    assert (limited["weight"], limited["limits"]) == (2.0, {"requests_per_minute": 1})
    assert (limited["requests"], limited["slots"]) == (1, 0)
    assert limited["audio_seconds"] > 0
    refused = limited["refused"]["requests_per_minute"]
    assert refused > 0
    assert status(LIMITED) == {"limited": limited}

    metrics = client.get("/metrics", headers=OPERATOR).text
    assert 'csm_key_requests_total{key="limited"} 1.0' in metrics
    assert f'csm_key_refused_total{{key="limited",limit="requests_per_minute"}} {refused}.0' in metrics
    assert 'csm_key_requests_total{key="api_key_1"}' in metrics
    assert 'key="other"' not in metrics  # not used
    own = client.get("/metrics", headers=LIMITED).text
    assert 'key="limited"' in own
    assert "api_key_1" not in own
    assert "csm_requests_total" in own
