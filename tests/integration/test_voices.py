"""Voices with real workers: consistency across workers, and cleanup of failed uploads."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.app.voices.recordings import recording
from tests.integration.shared import KEY, Server, serving

AMY, BOB = recording(pitch=220.0), recording(pitch=330.0)
WORKERS = {"0", "1"}
CONCURRENCY = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(
        folder,
        WORKERS="2",
        MODEL_PATH="fake:frame_seconds=0.005",
        CONCURRENT_REQUESTS_PER_WORKER="8",
        MAX_UPLOAD_MB="8",
    ) as started:
        started.wait_until(lambda: set(audio_by_worker(started, None)) == WORKERS)
        yield started


@pytest.fixture(autouse=True)
def _delete_voices(folder: Path, server: Server) -> Iterator[None]:
    yield
    for voice_id in api(server, "GET", "/voices").json():
        assert api(server, "DELETE", f"/voices/{voice_id}").status_code == 200


def api(server: Server, method: str, path: str, recording: bytes | None = None, **fields: str) -> httpx.Response:
    files = None if recording is None else {"file": ("amy.wav", recording)}
    return httpx.request(
        method, f"{server.url}{path}", headers={"X-API-Key": KEY}, files=files, data=fields or None, timeout=30
    )


def generate(server: Server, voice_id: str | None) -> httpx.Response:
    query = {"text": "x" * 10, "format": "raw_pcm", **({} if voice_id is None else {"voice_id": voice_id})}
    return httpx.get(f"{server.url}/tts/generate", params=query, headers={"X-API-Key": KEY}, timeout=30)


def generate_concurrently(server: Server, voice_id: str | None) -> list[httpx.Response]:
    """One connection per request, so that the requests are spread over the workers."""
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        return list(threads.map(lambda _: generate(server, voice_id), range(CONCURRENCY)))


def audio_by_worker(server: Server, voice_id: str | None) -> dict[str, set[bytes]]:
    """The audio of each worker in a voice, from at least one request to each."""
    audio: dict[str, set[bytes]] = {}
    while set(audio) != WORKERS:
        for answer in generate_concurrently(server, voice_id):
            assert answer.status_code == 200, answer.text
            audio.setdefault(answer.headers["X-Worker-ID"], set()).add(answer.content)
    return audio


def voice_of(server: Server, voice_id: str) -> bytes:
    """The audio of a voice, which must be the same in all workers."""
    audio = audio_by_worker(server, voice_id)
    assert len(set().union(*audio.values())) == 1
    return next(iter(audio["0"]))


@contextlib.contextmanager
def busy(server: Server, voice_id: str) -> Iterator[None]:
    """Keep a long stream in that voice open on every worker."""
    with contextlib.ExitStack() as streams:
        active: set[str] = set()
        while active != WORKERS:
            stream = streams.enter_context(
                httpx.stream(
                    "GET",
                    f"{server.url}/tts/generate",
                    params={"text": "x" * 4000, "voice_id": voice_id},
                    headers={"X-API-Key": KEY},
                    timeout=30,
                )
            )
            active.add(stream.headers["X-Worker-ID"])
        yield


def test_no_worker_uses_a_replaced_recording(server: Server) -> None:
    assert api(server, "POST", "/voices", AMY).status_code == 201
    amy = voice_of(server, "amy.wav")
    with busy(server, "amy.wav"):
        assert api(server, "PUT", "/voices/amy.wav", BOB).status_code == 200
        bob = voice_of(server, "amy.wav")
        assert bob != amy
        for _ in range(3):
            assert api(server, "PUT", "/voices/amy.wav", AMY).status_code == 200
            assert {answer.content for answer in generate_concurrently(server, "amy.wav")} == {amy}
            assert api(server, "PUT", "/voices/amy.wav", BOB).status_code == 200
            assert {answer.content for answer in generate_concurrently(server, "amy.wav")} == {bob}
        assert api(server, "PUT", "/voices/amy.wav", BOB, transcript="I am Bob.").status_code == 200
        assert voice_of(server, "amy.wav") not in (amy, bob)
        assert api(server, "DELETE", "/voices/amy.wav").status_code == 200
        assert {answer.status_code for answer in generate_concurrently(server, "amy.wav")} == {404}


def test_a_manually_changed_file_takes_effect(server: Server, folder: Path) -> None:
    file = folder / "voices" / "carl.wav"
    assert len(AMY) == len(BOB)
    file.write_bytes(AMY)
    amy, before = voice_of(server, "carl.wav"), file.stat()
    file.write_bytes(BOB)  # in place: the same inode, the same size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # and the same time
    bob = voice_of(server, "carl.wav")
    assert bob != amy
    (folder / "draft").write_bytes(AMY)
    (folder / "draft").replace(file)
    assert voice_of(server, "carl.wav") == amy
    (folder / "voices" / "carl.txt").write_text("I am Carl.")
    assert voice_of(server, "carl.wav") not in (amy, bob)
    file.unlink()
    (folder / "voices" / "carl.txt").unlink()
    assert {answer.status_code for answer in generate_concurrently(server, "carl.wav")} == {404}


def test_one_of_many_concurrent_uploads_succeeds(server: Server) -> None:
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        answers = list(threads.map(lambda _: api(server, "POST", "/voices", AMY), range(CONCURRENCY)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * (CONCURRENCY - 1)


# ---- failed uploads


def spooled(server: Server, folder: Path) -> int:
    """Number of incomplete uploads on disk, in unnamed files."""
    count = 0
    for worker in server.workers():
        for file in Path(f"/proc/{worker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(file).startswith(f"{folder}/spool/") and file.stat().st_size >= 1 << 20
    return count


def leftover_files(folder: Path) -> list[str]:
    paths = [*(folder / "spool").iterdir(), *(folder / "voices").iterdir()]
    return [path.name for path in paths if path.is_file() and path.name != ".lock"]


def start_upload(server: Server, length: int = 6 << 20, sent: int = 3 << 20) -> socket.socket:
    """Connect a client that has sent the first half of its form."""
    start = b'--mark\r\nContent-Disposition: form-data; name="file"; filename="x.wav"\r\n\r\n'
    head = (
        f"POST /voices HTTP/1.1\nHost: service\nX-API-Key: {KEY}\nContent-Type: multipart/form-data; boundary=mark\n"
        f"Content-Length: {length}"
    )
    return server.connect(head, start + b"\0" * sent)


def test_clients_that_disconnect_during_uploads_leave_no_files(server: Server, folder: Path) -> None:
    files = sum(worker.num_fds() for worker in server.workers())
    with contextlib.ExitStack() as uploads:
        for _ in range(4):
            uploads.enter_context(start_upload(server))
        server.wait_until(lambda: spooled(server, folder) == 4)
    server.wait_until(lambda: spooled(server, folder) == 0)
    server.wait_until(lambda: sum(worker.num_fds() for worker in server.workers()) <= files)
    assert leftover_files(folder) == []
    assert len([line for line in server.log.splitlines() if "path=/voices " in line and "outcome=left" in line]) == 4


def test_slow_uploads_do_not_block_other_requests(server: Server, folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        uploads = [stack.enter_context(start_upload(server)) for _ in range(16)]
        server.wait_until(lambda: spooled(server, folder) >= 8)
        assert {answer.status_code for answer in generate_concurrently(server, None)} == {200}
        assert api(server, "GET", "/voices").json() == []
        for upload in uploads:
            upload.close()
        assert api(server, "POST", "/voices", AMY).status_code == 201
    server.wait_until(lambda: spooled(server, folder) == 0)


@pytest.mark.parametrize("declared", [True, False])
def test_a_recording_that_is_too_large_is_rejected_and_removed(server: Server, folder: Path, declared: bool) -> None:
    kind = {"X-API-Key": KEY, "Content-Type": "multipart/form-data; boundary=mark"}
    start = b'--mark\r\nContent-Disposition: form-data; name="file"; filename="x.wav"\r\n\r\n'
    body = start + b"\0" * (12 << 20)
    chunks = (body[at : at + (1 << 20)] for at in range(0, len(body), 1 << 20))
    answer = httpx.post(f"{server.url}/voices", headers=kind, content=body if declared else chunks, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    server.wait_until(lambda: spooled(server, folder) == 0)
    assert leftover_files(folder) == []


def test_a_wrong_key_uploads_no_file(server: Server, folder: Path) -> None:
    answer = httpx.post(f"{server.url}/voices", headers={"X-API-Key": "wrong"}, files={"file": ("a.wav", AMY)})
    assert answer.status_code == 401
    assert answer.json() == {"detail": "Invalid or missing API Key", "code": "unauthorized"}
    assert leftover_files(folder) == []


def test_shutdown_does_not_wait_for_slow_uploads(tmp_path: Path) -> None:
    with serving(tmp_path, GRACEFUL_TIMEOUT_SECONDS="1") as own, start_upload(own):
        own.wait_until(lambda: spooled(own, tmp_path) == 1)
        children = own.workers()
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(timeout=60) == 0
        assert not any(child.is_running() for child in children)
        assert leftover_files(tmp_path) == []
