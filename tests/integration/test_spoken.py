"""End-to-end speech: a public speech recogniser recognises the text in every format and protocol.

Most of it uses csm-mini, which takes the path that CSM-1B takes; the last test also uses Kokoro, the default without
CSM's weights.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import pytest
from websockets.sync.client import ClientConnection, connect

from app.audio.encoders import FORMATS
from bench.texts import HARVARD
from models.csm_mini_recipe.asr_check import Recogniser, word_errors
from models.csm_mini_recipe.texts import CLOSED_SET
from tests.app.audio.encoders.test_formats import decode
from tests.integration.shared import KEY, Server, serving

pytest.importorskip("pocketsphinx")

Samples = npt.NDArray[np.float32]

WORDS = CLOSED_SET[2]
TEXT = f"{WORDS.capitalize()}."
VOICE = "speaker_0"
ENGINE = "csm"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Greedy decoding, so that every response has the same speech."""
    with serving(
        tmp_path_factory.mktemp("spoken"),
        MODEL_PATH="csm-mini",
        TTS_SYNTHESIS_TEMPERATURE="0",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(CLOSED_SET)


def post(server: Server, path: str, body: object) -> bytes:
    request = urllib.request.Request(
        f"{server.url}{path}",
        json.dumps(body).encode(),
        {"X-API-Key": KEY, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=100) as response:
        return bytes(response.read())


def post_json(server: Server, path: str, body: object) -> Any:
    return json.loads(post(server, path, body))


def connect_to(server: Server, path: str) -> ClientConnection:
    return connect(
        f"ws://127.0.0.1:{server.port}{path}", additional_headers={"X-API-Key": KEY}, max_size=None, open_timeout=60
    )


def decode_wav(data: str) -> Samples:
    return decode("wav", base64.b64decode(data))


def join_float32(*pieces: bytes) -> Samples:
    return np.frombuffer(b"".join(pieces), "<f4").copy()


@pytest.mark.parametrize("name", FORMATS)
def test_the_words_are_recognised_in_every_format(server: Server, recogniser: Recogniser, name: str) -> None:
    query = urlencode({"text": TEXT, "voice_id": VOICE, "format": name, "api_key": KEY})
    with urllib.request.urlopen(f"{server.url}/tts/generate?{query}", timeout=100) as response:
        assert response.headers["X-TTS-Engine"] == ENGINE
        data = response.read()
    assert recogniser.choose(decode(name, data)) == WORDS


def test_the_words_are_recognised_in_buffered_responses(server: Server, recogniser: Recogniser) -> None:
    audio = {
        "/generate": decode_wav(post_json(server, "/generate", {"text": TEXT, "temperature": 0})["audio_base64"]),
        "/generate/wav": decode("wav", post(server, "/generate/wav", {"text": TEXT, "temperature": 0})),
        "/api/generate": decode_wav(
            post_json(server, "/api/generate", {"text": TEXT, "voice": "speaker_0"})["audio_data"]
        ),
    }
    lines = post(server, "/stream/chunks", [TEXT]).splitlines()
    audio["/stream/chunks"] = decode_wav(json.loads(lines[0])["audio_base64"])
    assert {path: recogniser.choose(samples) for path, samples in audio.items()} == dict.fromkeys(audio, WORDS)


def test_the_words_are_recognised_from_the_openai_route(server: Server, recogniser: Recogniser) -> None:
    request = {"model": "csm", "input": TEXT, "voice": VOICE, "response_format": "pcm"}
    events = post(server, "/v1/audio/speech", request | {"stream_format": "sse"}).decode().splitlines()
    messages = [json.loads(line.removeprefix("data: ")) for line in events if line.startswith("data: {")]
    audio = b"".join(base64.b64decode(each["audio"]) for each in messages if each["type"] == "speech.audio.delta")
    plain = post(server, "/v1/audio/speech", request)
    assert audio == plain
    assert recogniser.choose(decode("raw_pcm", plain)) == WORDS


def test_the_words_are_recognised_in_the_voice_of_a_recording_in_the_request(
    server: Server, recogniser: Recogniser
) -> None:
    spoken = post(server, "/tts/generate", {"text": f"{TEXT} {TEXT} {TEXT}", "voice_id": "speaker_1", "format": "flac"})
    reference = {"audio": base64.b64encode(spoken).decode(), "transcript": f"{TEXT} {TEXT} {TEXT}"}
    request = {"text": TEXT, "format": "raw_pcm"}
    audio = post(server, "/tts/generate", request | {"reference": reference})
    assert recogniser.choose(decode("raw_pcm", audio)) == WORDS
    openai = {"ref_audio": reference["audio"], "ref_text": reference["transcript"]}
    assert post(server, "/v1/audio/speech", {"input": TEXT, "voice": VOICE, "response_format": "pcm"} | openai) == audio
    if ENGINE == "csm":  # the fallback voice cannot be cloned
        assert audio != post(server, "/tts/generate", request | {"voice_id": VOICE})


def test_the_words_are_recognised_from_the_voice_websocket(server: Server, recogniser: Recogniser) -> None:
    with connect_to(server, f"/api/{VOICE}") as socket:
        socket.send(TEXT)
        pieces = []
        while isinstance(message := socket.recv(timeout=100), bytes):
            pieces.append(message)
    assert json.loads(message) == {"type": "completion"}
    assert recogniser.choose(join_float32(*pieces)) == WORDS


@pytest.mark.parametrize("binary", [False, True])
def test_the_words_are_recognised_from_the_json_websocket(server: Server, recogniser: Recogniser, binary: bool) -> None:
    pieces = []
    with connect_to(server, "/ws") as socket:
        socket.send(json.dumps({"text": TEXT, "voice_id": VOICE, "binary": binary}))
        while True:
            message = socket.recv(timeout=100)
            if isinstance(message, bytes):
                pieces.append(message)
                continue
            reply = json.loads(message)
            if reply["type"] == "audio_chunk":
                pieces.append(base64.b64decode(reply["audio"]))
            elif reply["type"] != "audio_status":
                break
    assert reply["type"] == "completion"
    assert recogniser.choose(join_float32(*pieces)) == WORDS


def test_the_words_are_recognised_from_the_stream_websocket(server: Server, recogniser: Recogniser) -> None:
    with connect_to(server, "/stream") as socket:
        socket.send(json.dumps({"text": TEXT, "speaker_id": 0}))
        reply = json.loads(socket.recv(timeout=100))
    assert recogniser.choose(decode_wav(reply["audio_base64"])) == WORDS


def test_a_pause_is_exact_silence_between_the_same_words_as_without_it(server: Server, recogniser: Recogniser) -> None:
    def speak(text: str) -> bytes:
        return post(server, "/tts/generate", {"text": text, "voice_id": VOICE, "format": "raw_pcm"})

    alone = speak(TEXT)
    paused = speak(f"<speak>{TEXT}<break time='500ms'/>{TEXT}</speak>")
    after = len(alone) + 24_000  # bytes of 500 ms
    assert paused[: len(alone)] == alone
    assert paused[len(alone) : after] == bytes(24_000)
    assert recogniser.choose(np.frombuffer(paused[after:], "<i2").astype(np.float32) / 32768) == WORDS


def misheard(server: Server, recogniser: Recogniser, engine: str) -> int:
    """Words of the first five Harvard sentences that open recognition gets wrong, spoken by the default voice."""
    errors = 0
    for sentence in HARVARD[:5]:
        query = urlencode({"text": sentence, "seed": 1, "api_key": KEY})
        with urllib.request.urlopen(f"{server.url}/tts/generate?{query}", timeout=100) as response:
            assert response.headers["X-TTS-Engine"] == engine
            audio = decode("wav", response.read())
        errors += word_errors(sentence.lower().strip("."), recogniser.transcribe(audio))
    return errors


def test_csm_mini_is_told_from_noise(server: Server, recogniser: Recogniser) -> None:
    """Of 41 words. It is a demonstration."""
    assert misheard(server, recogniser, ENGINE) <= 39


def test_most_words_of_the_natural_voice_are_recognised(recogniser: Recogniser, tmp_path: Path) -> None:
    with serving(tmp_path, MODEL_PATH="kokoro") as natural:
        assert misheard(natural, recogniser, "kokoro") <= 21
