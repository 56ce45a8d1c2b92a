"""Streams whose worker is killed: another one speaks on, and the listener gets the audio of an undisturbed run."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import numpy.typing as npt
import pytest
from websockets.sync.client import connect

from tests.integration.pool_clients import HEADERS
from tests.integration.shared import Server, serving
from tests.integration.test_http_workers import process_of, workers
from tests.model_server import ModelHandler, model_server

ENGINES, FRAMES = 2, 150
FRAME_BYTES = 2 * 1920
SENTENCES = [letter * 35 + "." for letter in "abc"]

Samples = npt.NDArray[np.float32]


class Writer(ModelHandler):
    """A language model that writes its first sentence, and the others when it may."""

    may_go_on = threading.Event()

    def answer(self) -> None:
        self.read_body()
        self.send_answer(self._pieces())

    def _pieces(self) -> Iterator[str]:
        yield SENTENCES[0] + " "
        assert self.may_go_on.wait(60)
        yield " ".join(SENTENCES[1:])


class Hold:
    """Has every stream stop after so many frames, so that none has got further than a test wants when it kills."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, frames: int) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(str(frames))
        draft.rename(self.path)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with (
        model_server(Writer) as url,
        serving(
            folder,
            MODEL_PATH=f"fake:frame_seconds=0.005,hold={folder}/hold",
            WORKERS=str(ENGINES),
            HTTP_WORKERS="1",
            CONCURRENT_REQUESTS_PER_WORKER="16",
            LLM_BASE_URL=url,
            LLM_MODEL="test",
            NO_PROXY="127.0.0.1",
        ) as server,
    ):
        yield server


@pytest.fixture
def hold(folder: Path, server: Server) -> Iterator[Hold]:
    """Once all engines are ready and idle."""
    server.wait_until(lambda: len(ready(server)) == ENGINES and not any(active(server).values()))
    hold = Hold(folder / "hold")
    yield hold
    hold.release()


def ready(server: Server) -> list[str]:
    return [name for name, each in workers(server).items() if each["state"] == "ready" and each["capacity"]]


def active(server: Server) -> dict[str, int]:
    """The streams of each worker."""
    return {name: each["active"] for name, each in workers(server).items()}


def kill_worker(server: Server, worker_id: str) -> None:
    """Kill a worker, and wait until the pool knows: until then it is reported ready, and a test would count on it."""
    process = process_of(server, worker_id)
    process.kill()
    server.wait_until(lambda: workers(server).get(worker_id, {"pid": process.pid})["pid"] != process.pid)


def kill_speaker(server: Server) -> None:
    """Kill the worker that speaks the only stream."""
    (speaker,) = [name for name, streams in active(server).items() if streams]
    kill_worker(server, speaker)


def resumed(server: Server) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics", headers=HEADERS, timeout=30).text
    lines = [line for line in text.splitlines() if line.startswith("csm_streams_resumed_total{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


class Stream:
    """A streamed response, read as far as the test wants. Reading the rest raises unless it is whole."""

    def __init__(self, server: Server, stack: ExitStack, body: dict[str, Any], path: str = "/tts/generate") -> None:
        request = httpx.stream("POST", server.url + path, headers=HEADERS, json=body, timeout=60)
        self._response = stack.enter_context(request)
        assert self._response.status_code == 200
        self._pieces = self._response.iter_raw()
        self.data = next(self._pieces)
        self.worker = self._response.headers["x-worker-id"]

    def read(self, size: int) -> None:
        while len(self.data) < size:
            self.data += next(self._pieces)

    def rest(self) -> bytes:
        self.data += b"".join(self._pieces)
        return self.data


def decoded(data: bytes) -> Samples:
    with av.open(io.BytesIO(data)) as file:
        rate = file.streams.audio[0].rate
        resampler = av.AudioResampler("flt", "mono", rate)
        frames = [new.to_ndarray().reshape(-1) for frame in file.decode(audio=0) for new in resampler.resample(frame)]
    return np.concatenate(frames)


TURNS = [{"voice_id": f"speaker_{number}", "text": "x" * (FRAMES // 6)} for number in (0, 1, 2, 1, 0, 2)]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("/tts/generate", {"text": "x" * FRAMES, "format": name, "voice_id": "speaker_3"})
        for name in ("wav", "mp3", "fmp4", "opus")
    ),
    ("/tts/generate", {"text": "x" * FRAMES, "format": "aac", "sample_rate": 16000}),
    ("/v1/audio/speech", {"input": "x" * FRAMES, "response_format": "flac", "speed": 1.25}),
    ("/v1/audio/speech", {"input": "x" * FRAMES, "response_format": "mp3", "stream_format": "sse", "speed": 0.8}),
    ("/tts/dialogue", {"turns": TURNS, "gap_ms": -500}),
]


def audio_of(path: str, body: dict[str, Any], data: bytes) -> Samples:
    if body.get("stream_format") == "sse":
        events = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
        assert events[-1]["type"] == "speech.audio.done"
        data = b"".join(base64.b64decode(each["audio"]) for each in events if "audio" in each)
    return decoded(data)


class Crowd:
    """Two streams of each request, one at each of the two engines."""

    def __init__(self, server: Server, stack: ExitStack, undisturbed: list[bytes]) -> None:
        self._undisturbed = undisturbed
        self._threads = stack.enter_context(ThreadPoolExecutor(2 * len(REQUESTS)))
        self.pairs = [[Stream(server, stack, body, path) for _ in range(2)] for path, body in REQUESTS]
        assert all({each.worker for each in pair} == {"0", "1"} for pair in self.pairs)

    def _each(self, call: Callable[[Stream, bytes], object]) -> None:
        """Call something with every stream and what it is in an undisturbed run."""
        pairs = [(stream, whole) for pair, whole in zip(self.pairs, self._undisturbed, strict=True) for stream in pair]
        list(self._threads.map(lambda each: call(*each), pairs))

    def read(self, share: float) -> None:
        self._each(lambda stream, whole: stream.read(int(share * len(whole))))

    def assert_whole(self) -> None:
        self._each(lambda stream, whole: stream.rest())
        for (path, body), pair, whole in zip(REQUESTS, self.pairs, self._undisturbed, strict=True):
            for stream in pair:
                assert np.array_equal(audio_of(path, body, whole), audio_of(path, body, stream.data)), body


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> list[bytes]:
    """The whole answer to each request."""
    with ExitStack() as stack:
        return [Stream(server, stack, body, path).rest() for path, body in REQUESTS]


def test_a_text_of_a_websocket_goes_on_at_its_last_frame(server: Server, hold: Hold) -> None:
    frame_bytes = 4 * 1920

    def speak(disturb: bool) -> bytes:
        samples = b""
        with connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=HEADERS) as connection:
            connection.send(json.dumps({"text": "x" * FRAMES, "audio_tokens_per_slice": 1}))
            while (message := json.loads(connection.recv(timeout=60)))["type"] != "completion":
                if message["type"] == "audio_chunk":
                    samples += base64.b64decode(message["audio"])
                    if disturb and len(samples) == frame_bytes * (FRAMES - 1):
                        kill_speaker(server)
                        hold.release()
        return samples

    undisturbed = speak(disturb=False)
    server.wait_until(lambda: not any(active(server).values()))
    assert len(undisturbed) == frame_bytes * FRAMES
    before = resumed(server)
    hold.at(FRAMES - 1)
    assert speak(disturb=True) == undisturbed
    assert resumed(server)["resumed"] == before["resumed"] + 1


def test_an_answer_goes_on_that_waits_for_text(server: Server, hold: Hold) -> None:
    """The sentences of an answer are the parts of one text, in one slot, while the language model still writes."""
    part = {"type": "input_text", "text": "Hello."}
    item = {"type": "message", "role": "user", "content": [part]}

    def answer(disturb: Callable[[], None]) -> tuple[bytes, dict[str, Any]]:
        samples = b""
        with connect(f"ws://127.0.0.1:{server.port}/v1/realtime", additional_headers=HEADERS) as connection:
            connection.send(json.dumps({"type": "conversation.item.create", "item": item}))
            connection.send(json.dumps({"type": "response.create"}))
            while (event := json.loads(connection.recv(timeout=60)))["type"] != "response.done":
                if event["type"] == "response.output_audio.delta":
                    samples += base64.b64decode(event["delta"])
                    if len(samples) == FRAME_BYTES * len(SENTENCES[0]):
                        disturb()
        return samples, event["response"]

    def kill() -> None:
        kill_speaker(server)
        Writer.may_go_on.set()

    Writer.may_go_on.set()
    undisturbed, _ = answer(disturb=lambda: None)
    server.wait_until(lambda: not any(active(server).values()))
    before = resumed(server)
    Writer.may_go_on.clear()
    samples, response = answer(kill)
    assert samples == undisturbed
    assert len(samples) == FRAME_BYTES * sum(map(len, SENTENCES))
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["transcript"] == " ".join(SENTENCES)
    assert resumed(server)["resumed"] == before["resumed"] + 1


def test_a_stream_goes_on_whose_worker_dies_at_the_first_frames(
    server: Server, undisturbed: list[bytes], hold: Hold
) -> None:
    before = resumed(server)
    hold.at(FRAMES // 3)
    with ExitStack() as stack:
        crowd = Crowd(server, stack, undisturbed)
        kill_worker(server, "1")
        hold.release()
        crowd.assert_whole()
    after = resumed(server)
    assert (after["resumed"] - before["resumed"], after["cut"]) == (len(REQUESTS), before["cut"])


def test_a_stream_goes_on_that_loses_its_worker_twice_and_again_at_the_end(
    server: Server, undisturbed: list[bytes], hold: Hold
) -> None:
    """Half of them at two thirds, then while that is made up for, and near the end; the others at two of these."""
    before = resumed(server)
    hold.at(FRAMES * 2 // 3)
    with ExitStack() as stack:
        crowd = Crowd(server, stack, undisturbed)
        crowd.read(0.5)
        hold.at(20)  # less than what was delivered: nobody catches up
        kill_worker(server, "0")
        server.wait_until(lambda: active(server).get("1") == 2 * len(REQUESTS) and len(ready(server)) == ENGINES)
        kill_worker(server, "1")
        hold.at(FRAMES - 1)
        crowd.read(0.85)
        server.wait_until(lambda: active(server).get("0") == 2 * len(REQUESTS) and len(ready(server)) == ENGINES)
        kill_worker(server, "0")
        hold.release()
        crowd.assert_whole()
    after = resumed(server)
    assert (after["resumed"] - before["resumed"], after["cut"]) == (4 * len(REQUESTS), before["cut"])
