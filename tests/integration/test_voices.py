"""Voices over real workers: what all of them speak with, and what uploads that go wrong leave behind."""

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
AT_ONCE = 8


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
        started.wait_until(lambda: set(heard_in(started, None)) == WORKERS)
        yield started


@pytest.fixture(autouse=True)
def _no_voice_is_left(folder: Path, server: Server) -> Iterator[None]:
    yield
    for voice_id in api(server, "GET", "/voices").json():
        assert api(server, "DELETE", f"/voices/{voice_id}").status_code == 200


def api(server: Server, method: str, path: str, recording: bytes | None = None, **fields: str) -> httpx.Response:
    files = None if recording is None else {"file": ("amy.wav", recording)}
    return httpx.request(
        method, f"{server.url}{path}", headers={"X-API-Key": KEY}, files=files, data=fields or None, timeout=30
    )


def say(server: Server, voice_id: str | None) -> httpx.Response:
    query = {"text": "x" * 10, "format": "raw_pcm", **({} if voice_id is None else {"voice_id": voice_id})}
    return httpx.get(f"{server.url}/tts/generate", params=query, headers={"X-API-Key": KEY}, timeout=30)


def all_at_once(server: Server, voice_id: str | None) -> list[httpx.Response]:
    """On connections of their own, so that no worker gets them all."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(lambda _: say(server, voice_id), range(AT_ONCE)))


def heard_in(server: Server, voice_id: str | None) -> dict[str, set[bytes]]:
    """What each worker says in a voice; all of them have been asked."""
    heard: dict[str, set[bytes]] = {}
    while set(heard) != WORKERS:
        for answer in all_at_once(server, voice_id):
            assert answer.status_code == 200, answer.text
            heard.setdefault(answer.headers["X-Worker-ID"], set()).add(answer.content)
    return heard


def voice_of(server: Server, voice_id: str) -> bytes:
    """What a voice sounds like, in all workers alike."""
    heard = heard_in(server, voice_id)
    assert len(set().union(*heard.values())) == 1
    return next(iter(heard["0"]))


@contextlib.contextmanager
def busy(server: Server, voice_id: str) -> Iterator[None]:
    """While every worker is in the middle of a long speech in that voice."""
    with contextlib.ExitStack() as streams:
        speaking: set[str] = set()
        while speaking != WORKERS:
            stream = streams.enter_context(
                httpx.stream(
                    "GET",
                    f"{server.url}/tts/generate",
                    params={"text": "x" * 4000, "voice_id": voice_id},
                    headers={"X-API-Key": KEY},
                    timeout=30,
                )
            )
            speaking.add(stream.headers["X-Worker-ID"])
        yield


def test_no_worker_speaks_with_an_old_recording(server: Server) -> None:
    assert api(server, "POST", "/voices", AMY).status_code == 201
    amy = voice_of(server, "amy.wav")
    with busy(server, "amy.wav"):
        assert api(server, "PUT", "/voices/amy.wav", BOB).status_code == 200
        bob = voice_of(server, "amy.wav")
        assert bob != amy
        for _ in range(3):
            assert api(server, "PUT", "/voices/amy.wav", AMY).status_code == 200
            assert {answer.content for answer in all_at_once(server, "amy.wav")} == {amy}
            assert api(server, "PUT", "/voices/amy.wav", BOB).status_code == 200
            assert {answer.content for answer in all_at_once(server, "amy.wav")} == {bob}
        assert api(server, "PUT", "/voices/amy.wav", BOB, transcript="I am Bob.").status_code == 200
        assert voice_of(server, "amy.wav") not in (amy, bob)
        assert api(server, "DELETE", "/voices/amy.wav").status_code == 200
        assert {answer.status_code for answer in all_at_once(server, "amy.wav")} == {404}


def test_a_file_changed_by_hand_counts_too(server: Server, folder: Path) -> None:
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
    assert {answer.status_code for answer in all_at_once(server, "carl.wav")} == {404}


def test_of_many_with_one_id_one_wins(server: Server) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda _: api(server, "POST", "/voices", AMY), range(AT_ONCE)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * (AT_ONCE - 1)


# ---- uploads that go wrong


def spooled(server: Server, folder: Path) -> int:
    """How many uploads lie half done on the disk, in files that have no name any more."""
    count = 0
    for worker in server.workers():
        for file in Path(f"/proc/{worker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(file).startswith(f"{folder}/spool/") and file.stat().st_size >= 1 << 20
    return count


def left_behind(folder: Path) -> list[str]:
    paths = [*(folder / "spool").iterdir(), *(folder / "voices").iterdir()]
    return [path.name for path in paths if path.is_file() and path.name != ".lock"]


def start_upload(server: Server, length: int = 6 << 20, sent: int = 3 << 20) -> socket.socket:
    """A client that has sent the first half of its form."""
    start = b'--mark\r\nContent-Disposition: form-data; name="file"; filename="x.wav"\r\n\r\n'
    head = (
        f"POST /voices HTTP/1.1\nHost: service\nX-API-Key: {KEY}\nContent-Type: multipart/form-data; boundary=mark\n"
        f"Content-Length: {length}"
    )
    return server.connect(head, start + b"\0" * sent)


def test_clients_that_leave_in_mid_upload_leave_nothing_behind(server: Server, folder: Path) -> None:
    files = sum(worker.num_fds() for worker in server.workers())
    with contextlib.ExitStack() as uploads:
        for _ in range(4):
            uploads.enter_context(start_upload(server))
        server.wait_until(lambda: spooled(server, folder) == 4)
    server.wait_until(lambda: spooled(server, folder) == 0)
    server.wait_until(lambda: sum(worker.num_fds() for worker in server.workers()) <= files)
    assert left_behind(folder) == []
    assert len([line for line in server.log.splitlines() if "path=/voices " in line and "outcome=left" in line]) == 4


def test_uploads_that_drip_hold_nobody_else_up(server: Server, folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        uploads = [stack.enter_context(start_upload(server)) for _ in range(16)]
        server.wait_until(lambda: spooled(server, folder) >= 8)
        assert {answer.status_code for answer in all_at_once(server, None)} == {200}
        assert api(server, "GET", "/voices").json() == []
        for upload in uploads:
            upload.close()
        assert api(server, "POST", "/voices", AMY).status_code == 201
    server.wait_until(lambda: spooled(server, folder) == 0)


@pytest.mark.parametrize("declared", [True, False])
def test_a_recording_that_is_too_large_is_refused_and_gone(server: Server, folder: Path, declared: bool) -> None:
    kind = {"X-API-Key": KEY, "Content-Type": "multipart/form-data; boundary=mark"}
    start = b'--mark\r\nContent-Disposition: form-data; name="file"; filename="x.wav"\r\n\r\n'
    body = start + b"\0" * (12 << 20)
    pieces = (body[at : at + (1 << 20)] for at in range(0, len(body), 1 << 20))
    answer = httpx.post(f"{server.url}/voices", headers=kind, content=body if declared else pieces, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    server.wait_until(lambda: spooled(server, folder) == 0)
    assert left_behind(folder) == []


def test_a_wrong_key_uploads_nothing(server: Server, folder: Path) -> None:
    answer = httpx.post(f"{server.url}/voices", headers={"X-API-Key": "wrong"}, files={"file": ("a.wav", AMY)})
    assert answer.status_code == 401
    assert answer.json() == {"detail": "Invalid or missing API Key", "code": "unauthorized"}
    assert left_behind(folder) == []


def test_stopping_waits_for_no_upload_that_drips(tmp_path: Path) -> None:
    with serving(tmp_path, GRACEFUL_TIMEOUT_SECONDS="1") as own, start_upload(own):
        own.wait_until(lambda: spooled(own, tmp_path) == 1)
        children = own.workers()
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(timeout=60) == 0
        assert not any(child.is_running() for child in children)
        assert left_behind(tmp_path) == []
