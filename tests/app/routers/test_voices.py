from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.settings import Settings
from engine.testing import FakeEngine
from tests.app.voices.recordings import CONTAINERS, recording

pytestmark = pytest.mark.anyio

AMY, BOB = recording(pitch=220.0), recording(pitch=330.0)
JUNK = b"no audio at all"


@asynccontextmanager
async def serving(run: Any, settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
    headers = {"X-API-Key": "first-key"}
    async with (
        run(settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service", headers=headers) as client,
    ):
        yield client, app


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock" and path.is_file()}


async def test_the_life_of_a_voice(settings: Settings, run: Any) -> None:
    async with serving(run, settings) as (client, _):
        made = await client.post("/voices", files={"file": ("amy.wav", AMY)}, data={"transcript": "I am Amy."})
        assert made.status_code == 201
        assert made.json() == {"voice_id": "amy.wav", "message": "Voice uploaded successfully."}
        assert (await client.get("/voices")).json() == ["amy.wav"]
        known = (await client.get("/voices/amy.wav")).json()
        assert known.pop("created").endswith("+00:00")
        assert known == {
            "id": "amy.wav",
            "seconds": 1.5,
            "has_transcript": True,
            "preloaded": False,
            "sha256": hashlib.sha256(AMY).hexdigest(),
        }
        replaced = await client.put("/voices/amy.wav", files={"file": ("other-name.wav", BOB)})
        assert (replaced.status_code, replaced.json()["voice_id"]) == (200, "amy.wav")
        known = (await client.get("/voices/amy.wav")).json()
        assert (known["sha256"], known["has_transcript"]) == (hashlib.sha256(BOB).hexdigest(), False)
        deleted = await client.delete("/voices/amy.wav")
        assert deleted.status_code == 200
        assert deleted.json() == {"message": "Voice 'amy.wav' deleted successfully."}
        assert (await client.get("/voices")).json() == []
        assert files_in(settings.voices_dir) == {}


async def test_the_id_is_the_name_of_the_file_unless_given(settings: Settings, run: Any) -> None:
    async with serving(run, settings) as (client, _):
        for kind in CONTAINERS:
            made = await client.post("/voices", files={"file": (f"a.{kind}", recording(kind))})
            assert made.json()["voice_id"] == f"a.{kind}"
        made = await client.post("/voices", files={"file": ("a.wav", AMY)}, data={"voice_id": "Amy_2"})
        assert made.json()["voice_id"] == "Amy_2"
        assert len((await client.get("/voices")).json()) == len(CONTAINERS) + 1


@pytest.mark.parametrize(
    ("method", "path", "name", "content", "fields", "status", "code"),
    [
        ("POST", "/voices", "amy.wav", AMY, {}, 409, "voice_exists"),
        ("POST", "/voices", "AMY.wav", AMY, {}, 409, "voice_exists"),
        ("POST", "/voices", "kept.wav", AMY, {}, 409, "voice_exists"),
        ("POST", "/voices", "x.wav", JUNK, {}, 415, "not_audio"),
        ("POST", "/voices", "x.wav", AMY[:60], {}, 400, "undecodable_audio"),
        ("POST", "/voices", "x.wav", b"", {}, 400, "undecodable_audio"),
        ("POST", "/voices", "x.wav", recording(seconds=0.5), {}, 422, "voice_too_short"),
        ("POST", "/voices", "x.wav", recording("flac", seconds=31.0), {}, 413, "too_large"),
        ("POST", "/voices", "../x.wav", AMY, {}, 422, "bad_voice_id"),
        ("POST", "/voices", "x.wav", AMY, {"voice_id": "../../x"}, 422, "bad_voice_id"),
        ("POST", "/voices", "x.wav", AMY, {"voice_id": "speaker_7"}, 422, "bad_voice_id"),
        ("POST", "/voices", "x.wav", AMY, {"voice_id": "x" * 129}, 422, "bad_voice_id"),
        ("POST", "/voices", "x.wav", AMY, {"transcript": "x" * 2001}, 422, "bad_transcript"),
        ("POST", "/voices", "x.wav", AMY, {"transcript": "a\0b"}, 422, "bad_transcript"),
        ("PUT", "/voices/nobody.wav", "x.wav", AMY, {}, 404, "unknown_voice"),
        ("PUT", "/voices/amy", "x.wav", AMY, {}, 404, "unknown_voice"),
        ("PUT", "/voices/kept.wav", "x.wav", AMY, {}, 403, "preloaded_voice"),
        ("PUT", "/voices/amy.wav", "x.wav", JUNK, {}, 415, "not_audio"),
        ("PUT", "/voices/amy.wav", "x.wav", AMY, {"voice_id": "bob.wav"}, 422, "invalid_parameter"),
        ("PUT", "/voices/..%2f..%2fx", "x.wav", AMY, {}, 404, "not_found"),
    ],
)
async def test_what_is_refused_leaves_nothing_behind(
    settings: Settings,
    run: Any,
    method: str,
    path: str,
    name: str,
    content: bytes,
    fields: dict[str, str],
    status: int,
    code: str,
) -> None:
    settings.preloaded_voices_dir.mkdir()
    (settings.preloaded_voices_dir / "kept.wav").write_bytes(BOB)
    settings.voices_dir.mkdir()
    (settings.voices_dir / "amy.wav").write_bytes(BOB)
    async with serving(run, settings) as (client, app):
        prepared = list(app.state.service.host.engine.prepared)
        answer = await client.request(method, path, files={"file": (name, content)}, data=fields)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert app.state.service.host.engine.prepared == prepared
    assert files_in(settings.voices_dir) == {"amy.wav": BOB}
    assert files_in(settings.preloaded_voices_dir) == {"kept.wav": BOB}
    assert {path.name for path in settings.voices_dir.parent.iterdir()} == {"voices", "preloaded"}


async def test_a_preloaded_voice_stays(settings: Settings, run: Any) -> None:
    settings.preloaded_voices_dir.mkdir()
    (settings.preloaded_voices_dir / "kept.wav").write_bytes(BOB)
    async with serving(run, settings) as (client, _):
        assert (await client.get("/voices/kept.wav")).json()["preloaded"] is True
        refused = await client.delete("/voices/kept.wav")
        assert (refused.status_code, refused.json()["code"]) == (403, "preloaded_voice")
        assert (await client.delete("/voices/nobody")).status_code == 404
        assert (await client.get("/voices/nobody")).status_code == 404
        assert (await client.get("/voices")).json() == ["kept.wav"]


async def test_a_file_put_down_by_hand_that_is_no_voice_is_told_of(settings: Settings, run: Any) -> None:
    settings.voices_dir.mkdir()
    (settings.voices_dir / "torn.wav").write_bytes(AMY[:60])
    async with serving(run, settings) as (client, _):
        answer = await client.get("/voices/torn.wav")
        assert answer.status_code == 400
        assert "torn.wav" in answer.json()["detail"]
        assert (await client.get("/voices")).json() == []


def multipart(content: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    request = httpx.Request("POST", "http://service/", files={"file": ("amy.wav", content)})
    headers = ((b"x-api-key", b"first-key"), (b"content-type", request.headers["content-type"].encode()))
    return headers, request.read()


async def test_the_answer_does_not_wait_for_the_voice_to_be_prepared(
    settings: Settings, run: Any, call: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, prepared = threading.Event(), threading.Event(), []

    def slowly(engine: FakeEngine, voice: Any, speaker: int = 0) -> None:
        begun.set()
        go_on.wait(60)
        prepared.append(voice.transcript)

    async with run(settings) as app:
        monkeypatch.setattr(FakeEngine, "prepare_voice", slowly)
        headers, body = multipart(AMY)
        client = await call(app, "/voices", method="POST", headers=headers, body=(body,)).done()
        assert client.status == 201
        await wait(begun.is_set)
        assert prepared == []
        go_on.set()
        await wait(lambda: prepared == [""])


async def test_a_voice_is_prepared_as_it_is_spoken_with(settings: Settings, run: Any, wait: Any) -> None:
    async with serving(run, settings) as (client, app):
        host = app.state.service.host
        for method, path, content in (("POST", "/voices", AMY), ("PUT", "/voices/amy.wav", BOB)):
            before = len(host.engine.prepared)
            changed = await client.request(method, path, files={"file": ("amy.wav", content)})
            assert changed.is_success, changed.text
            await wait(lambda before=before: len(host.engine.prepared) > before)
            resolved = host.resolve_voice("amy.wav")
            assert host.engine.prepared[-1] == (resolved.voice.key, resolved.speaker)


async def test_uploads_hold_up_neither_speech_nor_lists(
    settings: Settings, run: Any, wait: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, go_on = threading.Semaphore(0), threading.Event()
    async with serving(run, settings) as (client, app):
        service = app.state.service
        add = service.voices.add

        def slowly(*voice: Any) -> Any:
            busy.release()
            go_on.wait(60)
            return add(*voice)

        monkeypatch.setattr(service.voices, "add", slowly)
        headers, body = multipart(AMY)
        uploads = [
            call(app, "/voices", method="POST", headers=headers, body=(body,)) for _ in range(service.uploads.capacity)
        ]
        await wait(lambda: service.uploads.active == service.uploads.capacity and busy.acquire(blocking=False))
        try:
            assert (await client.get("/voices")).json() == []
            assert (await client.get("/tts/generate", params={"text": "Hi"})).status_code == 200
            assert (await client.get("/health")).status_code == 200
        finally:
            go_on.set()
        assert sorted([(await upload.done()).status for upload in uploads]) == [201] + [409] * (len(uploads) - 1)


async def test_more_uploads_than_can_wait_are_told_to_come_back(settings: Settings, run: Any, call: Any) -> None:
    async with run(settings) as app:
        app.state.service.uploads._max_queued = 0
        async with app.state.service.uploads.reserve(app.state.service.uploads.capacity):
            headers, body = multipart(AMY)
            client = await call(app, "/voices", method="POST", headers=headers, body=(body,)).done()
        assert client.status == 429
        assert int(client.headers["retry-after"]) > 0
        assert client.received == 0
        assert app.state.service.uploads.active == 0


async def test_a_client_that_leaves_in_mid_upload_frees_its_place(
    settings: Settings, run: Any, call: Any, wait: Any
) -> None:
    async with run(settings) as app:
        uploads = app.state.service.uploads
        headers, body = multipart(AMY)
        threads = set(threading.enumerate())
        clients = [
            call(app, "/voices", method="POST", headers=headers, body=(body[:-9],), stalls=True) for _ in range(4)
        ]
        await wait(lambda: uploads.active == 4)
        for client in clients:
            client.leave()
            await client.done()
        assert uploads.active == 0
        assert set(threading.enumerate()) <= threads
        assert files_in(settings.voices_dir) == {}


async def test_voices_can_be_changed_while_the_engine_loads_or_after_it_failed(
    settings: Settings, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = settings.model_copy(update={"model_path": "fake:load_fails=true"})
    async with serving(run, broken) as (client, _):
        assert (await client.post("/voices", files={"file": ("amy.wav", AMY)})).status_code == 201
        assert (await client.get("/voices")).json() == ["amy.wav"]
