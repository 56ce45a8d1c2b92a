"""Two services that share a bucket on a real S3 server: what one changes the other speaks at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.voices.recordings import recording
from tests.app.voices.s3_server import CREDENTIALS, StorageProxy, s3_server
from tests.integration.shared import KEY, Server, serving

AMY, BOB, EVE = (recording(pitch=pitch) for pitch in (220.0, 330.0, 440.0))


@pytest.fixture(scope="module")
def proxy() -> Iterator[StorageProxy]:
    import boto3

    with s3_server() as port:
        proxy = StorageProxy(port)
        client = boto3.client(
            "s3",
            endpoint_url=proxy.url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="voices")
        client.close()
        yield proxy
        proxy.close()


@pytest.fixture(scope="module")
def services(proxy: StorageProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two machines: the first has two workers."""
    shared = {
        "VOICES_URL": "s3://voices/of-both",
        "VOICES_STORAGE_OPTIONS": f'{{"endpoint_url": "{proxy.url}", "key": "test", "secret": "hidden-secret"}}',
        "CONCURRENT_REQUESTS_PER_WORKER": "8",
    }
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(serving(tmp_path_factory.mktemp("one"), WORKERS="2", **shared))
        two = stack.enter_context(serving(tmp_path_factory.mktemp("two"), WORKERS="1", **shared))
        yield one, two


def call(server: Server, method: str, path: str, data: bytes | None = None, **fields: str) -> httpx.Response:
    files = None if data is None else {"file": ("amy.wav", data)}
    return httpx.request(
        method, f"{server.url}{path}", headers={"X-API-Key": KEY}, files=files, data=fields or None, timeout=60
    )


def speak(server: Server, voice_id: str) -> httpx.Response:
    query = {"text": "x" * 10, "format": "raw_pcm", "voice_id": voice_id}
    return httpx.get(f"{server.url}/tts/generate", params=query, headers={"X-API-Key": KEY}, timeout=60)


def component(server: Server) -> Any:
    return call(server, "GET", "/health").json()["components"]["voice_storage"]


def spoken(server: Server, voice_id: str) -> bytes:
    """The fake engine's tone depends on the voice. Every worker is asked, several at a time."""
    answers = [speak(server, voice_id) for _ in range(4)]
    assert {each.status_code for each in answers} == {200}, answers[0].text
    [audio] = {each.content for each in answers}
    return audio


def test_both_speak_what_one_has_changed(services: tuple[Server, Server], proxy: StorageProxy) -> None:
    one, two = services
    assert speak(two, "amy.wav").status_code == 404
    assert call(one, "POST", "/voices", AMY, transcript="Hello.").status_code == 201
    amy = spoken(two, "amy.wav")
    assert spoken(one, "amy.wav") == spoken(two, "amy") == amy
    assert call(two, "POST", "/voices", BOB).status_code == 409
    assert call(two, "PUT", "/voices/amy.wav", BOB).status_code == 200
    bob = spoken(one, "amy.wav")
    assert bob != amy
    assert spoken(two, "amy.wav") == bob
    assert call(two, "GET", "/voices").json() == call(one, "GET", "/voices").json() == ["amy.wav"]
    assert call(one, "DELETE", "/voices/amy.wav").status_code == 200
    for server in services:
        assert speak(server, "amy.wav").status_code == 404
        assert component(server) == {"state": "ok", "error": None, "workers": []}


def test_a_lost_storage_and_its_return(services: tuple[Server, Server], proxy: StorageProxy) -> None:
    one, two = services
    call(one, "POST", "/voices", AMY)
    call(one, "POST", "/voices", BOB, voice_id="bob.wav")
    amy = spoken(two, "amy.wav")
    proxy.down()
    try:
        assert spoken(two, "amy.wav") == amy
        lost = speak(two, "bob.wav")
        assert (lost.status_code, lost.json()["code"]) == (503, "storage_failed")
        assert "VOICES_URL" in lost.json()["detail"]
        assert call(two, "PUT", "/voices/amy.wav", EVE).status_code == 503
        assert speak(two, "speaker_0").status_code == 200
        two.wait_until(lambda: component(two)["state"] == "failed")
        assert component(two)["error"] == "VOICES_URL s3://voices/of-both cannot be used"
        assert call(two, "GET", "/health").status_code == 200
    finally:
        proxy.up()
    two.wait_until(lambda: component(two)["state"] == "ok")
    assert call(one, "PUT", "/voices/amy.wav", EVE).status_code == 200
    eve = spoken(two, "amy.wav")
    assert eve != amy
    assert spoken(one, "amy.wav") == eve
    assert spoken(two, "bob.wav") == spoken(one, "bob.wav") != eve
    [failed] = [line for line in two.log.splitlines() if "voice_storage does not work" in line]
    assert "Could not connect to the endpoint" in failed
    assert "voice_storage works again" in two.log
    assert "hidden-secret" not in one.log + two.log


def test_a_new_machine_has_all_voices_and_encodes_none_again(
    services: tuple[Server, Server], proxy: StorageProxy, tmp_path: Path
) -> None:
    one, _ = services
    voices = call(one, "GET", "/voices").json()
    proxy.take_requests()
    with serving(
        tmp_path,
        VOICES_URL="s3://voices/of-both",
        VOICES_STORAGE_OPTIONS=f'{{"endpoint_url": "{proxy.url}", "key": "test", "secret": "test"}}',
    ) as three:
        assert call(three, "GET", "/voices").json() == voices == ["amy.wav", "bob.wav"]
        requests = proxy.take_requests()
        assert spoken(three, "bob.wav") == spoken(one, "bob.wav")
    assert sum(each.startswith("GET") and each.endswith(".npy") for each in requests) == len(voices)
    assert not any(each.startswith("PUT") for each in requests)


def test_a_service_starts_without_its_storage(tmp_path: Path) -> None:
    with serving(
        tmp_path, VOICES_URL="s3://voices/of-both", VOICES_STORAGE_OPTIONS='{"endpoint_url": "http://127.0.0.1:9"}'
    ) as server:
        assert speak(server, "speaker_0").status_code == 200
        assert speak(server, "amy.wav").status_code == 503
        assert component(server)["state"] == "failed"
