"""Streams whose worker is killed: another one speaks on, and the listener gets the audio of an undisturbed run."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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

ENGINES, FRAMES = 3, 150


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("resume"),
        MODEL_PATH="fake:frame_seconds=0.02",
        WORKERS=str(ENGINES),
        HTTP_WORKERS="1",
        CONCURRENT_REQUESTS_PER_WORKER="8",
        ENGINE_TIMEOUT_SECONDS="2",
    ) as server:
        yield server


@pytest.fixture(autouse=True)
def _settled(server: Server) -> None:
    server.wait_until(lambda: len(ready(server)) == ENGINES and not any(speakers(server)))


def ready(server: Server) -> list[str]:
    return [name for name, each in workers(server).items() if each["state"] == "ready" and each["capacity"]]


def speakers(server: Server) -> list[str]:
    return [name for name, each in workers(server).items() if each["active"]]


def kill_speaker(server: Server) -> None:
    """Kill the worker that speaks the only stream."""
    (speaker,) = speakers(server)
    process_of(server, speaker).kill()


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
        self.worker = self._response.headers.get("x-worker-id")

    def read(self, size: int) -> None:
        while len(self.data) < size:
            self.data += next(self._pieces)

    def rest(self) -> bytes:
        self.data += b"".join(self._pieces)
        return self.data


def decoded(data: bytes) -> npt.NDArray[np.float32]:
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


def audio_of(path: str, body: dict[str, Any], data: bytes) -> npt.NDArray[np.float32]:
    if body.get("stream_format") == "sse":
        events = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
        assert events[-1]["type"] == "speech.audio.done"
        data = b"".join(base64.b64decode(each["audio"]) for each in events if "audio" in each)
    return decoded(data)


def test_every_stream_is_whole_in_every_format_and_with_effects(server: Server) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(len(REQUESTS)) as crowd:

        def start() -> list[Stream]:
            return list(crowd.map(lambda each: Stream(server, stack, each[1], each[0]), REQUESTS))

        undisturbed = list(crowd.map(Stream.rest, start()))
        before, streams = resumed(server), start()
        process_of(server, "0").kill()  # at the first frames
        for each, whole in zip(streams, undisturbed, strict=True):
            each.read(len(whole) // 3)
        process_of(server, "1").kill()
        disturbed = list(crowd.map(Stream.rest, streams))
    for (path, body), whole, data in zip(REQUESTS, undisturbed, disturbed, strict=True):
        assert np.array_equal(audio_of(path, body, whole), audio_of(path, body, data)), body
    after = resumed(server)
    assert after["resumed"] >= before["resumed"] + 2  # two or three streams spoke at the first
    assert after["cut"] == before["cut"]


SENTENCES = [letter * 35 + "." for letter in "abc"]


def test_an_answer_of_a_conversation_goes_on(server: Server) -> None:
    """Its sentences are the parts of one text, in one slot."""
    part = {"type": "input_text", "text": " ".join(SENTENCES)}
    item = {"type": "message", "role": "user", "content": [part]}

    def answer(disturb: bool) -> tuple[bytes, dict[str, Any]]:
        samples = b""
        with connect(f"ws://127.0.0.1:{server.port}/v1/realtime", additional_headers=HEADERS) as connection:
            connection.send(json.dumps({"type": "conversation.item.create", "item": item}))
            connection.send(json.dumps({"type": "response.create"}))
            while (event := json.loads(connection.recv(timeout=60)))["type"] != "response.done":
                if event["type"] == "response.output_audio.delta":
                    samples += base64.b64decode(event["delta"])
                    if disturb and len(samples) > 40 * 3840:  # within the second sentence
                        kill_speaker(server)
                        disturb = False
        return samples, event["response"]

    undisturbed, _ = answer(disturb=False)
    server.wait_until(lambda: not speakers(server))
    before = resumed(server)
    samples, response = answer(disturb=True)
    assert samples == undisturbed
    assert len(samples) == 3840 * sum(map(len, SENTENCES))
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["transcript"] == part["text"]
    assert resumed(server)["resumed"] == before["resumed"] + 1


def test_a_text_of_a_websocket_goes_on(server: Server) -> None:
    def speak(disturb: bool) -> bytes:
        samples = b""
        with connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=HEADERS) as connection:
            connection.send(json.dumps({"text": "x" * FRAMES}))
            while (message := json.loads(connection.recv(timeout=60)))["type"] != "completion":
                if message["type"] == "audio_chunk":
                    if disturb and not samples:
                        kill_speaker(server)
                    samples += base64.b64decode(message["audio"])
        return samples

    undisturbed = speak(disturb=False)
    server.wait_until(lambda: not speakers(server))
    assert len(undisturbed) in (FRAMES * 1920 * 2, FRAMES * 1920 * 4)
    assert speak(disturb=True) == undisturbed
