from __future__ import annotations

import hashlib
import threading
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from app.settings import Settings
from engine.testing import FakeEngine
from tests.app.voices.recordings import CONTAINERS, recording

pytestmark = pytest.mark.anyio

AMY, BOB = recording(pitch=220.0), recording(pitch=330.0)
NOT_AUDIO = b"no audio at all"


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


async def test_upload_read_replace_and_delete(settings: Settings, run: Any) -> None:
    async with serving(run, settings) as (client, _):
        created = await client.post("/voices", files={"file": ("amy.wav", AMY)}, data={"transcript": "I am Amy."})
        assert created.status_code == 201
        assert created.json() == {"voice_id": "amy.wav", "message": "Voice uploaded successfully.", "warnings": []}
        assert (await client.get("/voices")).json() == ["amy.wav"]
        details = (await client.get("/voices/amy.wav")).json()
        assert details.pop("created").endswith("+00:00")
        assert details == {
            "id": "amy.wav",
            "seconds": 1.5,
            "has_transcript": True,
            "preloaded": False,
            "sha256": hashlib.sha256(AMY).hexdigest(),
        }
        replaced = await client.put("/voices/amy.wav", files={"file": ("other-name.wav", BOB)})
        assert (replaced.status_code, replaced.json()["voice_id"]) == (200, "amy.wav")
        assert ["no transcript" in each for each in replaced.json()["warnings"]] == [True]
        details = (await client.get("/voices/amy.wav")).json()
        assert (details["sha256"], details["has_transcript"]) == (hashlib.sha256(BOB).hexdigest(), False)
        deleted = await client.delete("/voices/amy.wav")
        assert deleted.status_code == 200
        assert deleted.json() == {"message": "Voice 'amy.wav' deleted successfully."}
        assert (await client.get("/voices")).json() == []
        assert files_in(settings.voices_dir) == {}


@pytest.mark.parametrize("name", ["my voice (1).wav", "Stimme-ä.wav", "声音.wav"])
async def test_an_id_of_any_script_works_on_every_route(settings: Settings, run: Any, name: str) -> None:
    decomposed = unicodedata.normalize("NFD", name)
    async with serving(run, settings) as (client, _):
        created = await client.post("/voices", files={"file": (decomposed, AMY)}, data={"transcript": "Hi."})
        assert (created.status_code, created.json()["voice_id"]) == (201, name)
        assert (await client.get("/voices")).json() == [name]
        for form in (name, decomposed):
            path = f"/voices/{quote(form)}"
            assert (await client.get(path)).json()["id"] == name
            replaced = await client.put(path, files={"file": ("x.wav", BOB)}, data={"voice_id": name})
            assert (replaced.status_code, replaced.json()["voice_id"]) == (200, name)
            for voice_id in (form, form.removesuffix(".wav")):
                spoken = await client.get("/tts/generate", params={"text": "Hi", "voice_id": voice_id})
                assert spoken.status_code == 200
        exists = await client.post("/voices", files={"file": (name, AMY)})
        assert exists.status_code == 409
        assert quote(name) in exists.json()["detail"]
        deleted = await client.delete(f"/voices/{quote(decomposed)}")
        assert deleted.json() == {"message": f"Voice '{name}' deleted successfully."}


async def test_the_id_defaults_to_the_file_name(settings: Settings, run: Any) -> None:
    async with serving(run, settings) as (client, _):
        for kind in CONTAINERS:
            created = await client.post("/voices", files={"file": (f"a.{kind}", recording(kind))})
            assert created.json()["voice_id"] == f"a.{kind}"
        created = await client.post("/voices", files={"file": ("a.wav", AMY)}, data={"voice_id": "Amy_2"})
        assert created.json()["voice_id"] == "Amy_2"
        assert len((await client.get("/voices")).json()) == len(CONTAINERS) + 1


@pytest.mark.parametrize(
    ("method", "path", "name", "content", "fields", "status", "code"),
    [
        ("POST", "/voices", "amy.wav", AMY, {}, 409, "voice_exists"),
        ("POST", "/voices", "AMY.wav", AMY, {}, 409, "voice_exists"),
        ("POST", "/voices", "preloaded.wav", AMY, {}, 409, "voice_exists"),
        ("POST", "/voices", "x.wav", NOT_AUDIO, {}, 415, "not_audio"),
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
        ("PUT", "/voices/preloaded.wav", "x.wav", AMY, {}, 403, "preloaded_voice"),
        ("PUT", "/voices/amy.wav", "x.wav", NOT_AUDIO, {}, 415, "not_audio"),
        ("PUT", "/voices/amy.wav", "x.wav", AMY, {"voice_id": "bob.wav"}, 422, "invalid_parameter"),
        ("PUT", "/voices/..%2f..%2fx", "x.wav", AMY, {}, 404, "not_found"),
    ],
)
async def test_rejected_uploads_leave_no_files(
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
    (settings.preloaded_voices_dir / "preloaded.wav").write_bytes(BOB)
    settings.voices_dir.mkdir()
    (settings.voices_dir / "amy.wav").write_bytes(BOB)
    async with serving(run, settings) as (client, app):
        prepared = list(app.state.service.host.engine.prepared)
        response = await client.request(method, path, files={"file": (name, content)}, data=fields)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert app.state.service.host.engine.prepared == prepared
    assert files_in(settings.voices_dir) == {"amy.wav": BOB}
    assert files_in(settings.preloaded_voices_dir) == {"preloaded.wav": BOB}
    assert {path.name for path in settings.voices_dir.parent.iterdir()} == {"voices", "preloaded"}


async def test_a_preloaded_voice_cannot_be_deleted(settings: Settings, run: Any) -> None:
    settings.preloaded_voices_dir.mkdir()
    (settings.preloaded_voices_dir / "preloaded.wav").write_bytes(BOB)
    async with serving(run, settings) as (client, _):
        assert (await client.get("/voices/preloaded.wav")).json()["preloaded"] is True
        rejected = await client.delete("/voices/preloaded.wav")
        assert (rejected.status_code, rejected.json()["code"]) == (403, "preloaded_voice")
        assert (await client.delete("/voices/nobody")).status_code == 404
        assert (await client.get("/voices/nobody")).status_code == 404
        assert (await client.get("/voices")).json() == ["preloaded.wav"]


async def test_an_invalid_file_in_the_folder_is_reported(settings: Settings, run: Any) -> None:
    settings.voices_dir.mkdir()
    (settings.voices_dir / "torn.wav").write_bytes(AMY[:60])
    async with serving(run, settings) as (client, _):
        response = await client.get("/voices/torn.wav")
        assert response.status_code == 400
        assert "torn.wav" in response.json()["detail"]
        assert (await client.get("/voices")).json() == []


def multipart(content: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    request = httpx.Request("POST", "http://service/", files={"file": ("amy.wav", content)})
    headers = ((b"x-api-key", b"first-key"), (b"content-type", request.headers["content-type"].encode()))
    return headers, request.read()


async def test_the_response_does_not_wait_for_voice_preparation(
    settings: Settings, run: Any, call: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, resume, prepared = threading.Event(), threading.Event(), []

    def slow_operation(engine: FakeEngine, voice: Any, speaker: int = 0) -> None:
        started.set()
        resume.wait(60)
        prepared.append(voice.transcript)

    async with run(settings) as app:
        monkeypatch.setattr(FakeEngine, "prepare_voice", slow_operation)
        headers, body = multipart(AMY)
        client = await call(app, "/voices", method="POST", headers=headers, body=(body,)).done()
        assert client.status == 201
        await wait(started.is_set)
        assert prepared == []
        resume.set()
        await wait(lambda: prepared == [""])


async def test_an_uploaded_voice_is_prepared(settings: Settings, run: Any, wait: Any) -> None:
    async with serving(run, settings) as (client, app):
        host = app.state.service.host
        for method, path, content in (("POST", "/voices", AMY), ("PUT", "/voices/amy.wav", BOB)):
            before = len(host.engine.prepared)
            changed = await client.request(method, path, files={"file": ("amy.wav", content)})
            assert changed.is_success, changed.text
            await wait(lambda before=before: len(host.engine.prepared) > before)
            resolved = host.resolve_voice("amy.wav")
            assert host.engine.prepared[-1] == (resolved.voice.key, resolved.speaker)


async def test_uploads_do_not_block_speech_or_lists(
    settings: Settings, run: Any, wait: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, resume = threading.Semaphore(0), threading.Event()
    async with serving(run, settings) as (client, app):
        state = app.state.service
        add = state.voices.add

        def slow_operation(*voice: Any) -> Any:
            busy.release()
            resume.wait(60)
            return add(*voice)

        monkeypatch.setattr(state.voices, "add", slow_operation)
        headers, body = multipart(AMY)
        uploads = [
            call(app, "/voices", method="POST", headers=headers, body=(body,)) for _ in range(state.uploads.capacity)
        ]
        await wait(lambda: state.uploads.active == state.uploads.capacity and busy.acquire(blocking=False))
        try:
            assert (await client.get("/voices")).json() == []
            assert (await client.get("/tts/generate", params={"text": "Hi"})).status_code == 200
            assert (await client.get("/health")).status_code == 200
        finally:
            resume.set()
        assert sorted([(await upload.done()).status for upload in uploads]) == [201] + [409] * (len(uploads) - 1)


async def test_too_many_uploads_are_429(settings: Settings, run: Any, call: Any) -> None:
    async with run(settings) as app:
        app.state.service.uploads._max_queued = 0
        async with app.state.service.uploads.reserve(app.state.service.uploads.capacity):
            headers, body = multipart(AMY)
            client = await call(app, "/voices", method="POST", headers=headers, body=(body,)).done()
        assert client.status == 429
        assert int(client.headers["retry-after"]) > 0
        assert client.received == 0
        assert app.state.service.uploads.active == 0


async def test_a_disconnect_during_upload_frees_its_place(settings: Settings, run: Any, call: Any, wait: Any) -> None:
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


async def test_voices_can_be_uploaded_after_the_engine_failed(
    settings: Settings, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = settings.model_copy(update={"model_path": "fake:load_fails=true"})
    async with serving(run, broken) as (client, _):
        assert (await client.post("/voices", files={"file": ("amy.wav", AMY)})).status_code == 201
        assert (await client.get("/voices")).json() == ["amy.wav"]
