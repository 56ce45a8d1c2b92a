"""OpenAI's official client in a conversation with the service, and a language model server of the tests."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from app.audio.encoders.wav import wav_file
from app.cli import main as cli
from tests.app.realtime.harness import encoded, silence, speech
from tests.integration.shared import KEY, Server, serving
from tests.model_server import ModelHandler, model_server

pytestmark = pytest.mark.anyio


class Models(ModelHandler):
    """Chat completions that answer with the number of messages, and transcriptions that hear one sentence."""

    def answer(self) -> None:
        body = self.read_body()
        if self.transcribes:
            self.send_transcript("What can you do?")
            return
        turns = [message["role"] for message in json.loads(body)["messages"]]
        said = f"{turns.count('user')} "
        self.send_answer(["You ", "said ", said, "things, ", "and ", "I ", "heard ", "them ", "all."])


@pytest.fixture(scope="module")
def models() -> Iterator[str]:
    with model_server(Models) as url:
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: str) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("realtime")
    with serving(
        folder,
        MODEL_PATH="fake:frame_seconds=0.01",
        LLM_BASE_URL=models,
        LLM_MODEL="test",
        STT_BASE_URL=models,
        HTTP_WORKERS="1",  # so that speech and the encoding of the user's audio are another process's
        NO_PROXY="127.0.0.1",
    ) as server:
        yield server


@pytest.fixture
def client(server: Server) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0)


async def events_until(connection: Any, kind: str) -> list[Any]:
    events: list[Any] = []
    async for event in connection:
        assert event.type != "error", event
        events.append(event)
        if event.type == kind:
            return events
    raise AssertionError("the connection ended")


async def test_a_typed_conversation(client: openai.AsyncOpenAI) -> None:
    async with asyncio.timeout(60), client.realtime.connect(model="gpt-realtime") as connection:
        created = await connection.recv()
        assert created.type == "session.created"
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        await events_until(connection, "session.updated")
        for turn in (1, 2):
            await connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
            )
            await connection.response.create()
            events = await events_until(connection, "response.done")
            audio = b"".join(
                base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta"
            )
            response = events[-1].response
            said = response.output[0].content[0].transcript
            assert said == f"You said {turn} things, and I heard them all."
            assert len(audio) == 2 * 1920 * sum(map(len, ("You said 1 things,", "and I heard them all.")))
            assert response.status == "completed"
            assert response.usage.output_token_details.audio_tokens > 0
            assert float(response.metadata["total_ms"]) > 0
    await client.close()


async def test_a_spoken_turn_and_an_interruption(client: openai.AsyncOpenAI) -> None:
    turn = np.concatenate([silence(0.3), speech(), silence(0.7)])
    async with asyncio.timeout(90), client.realtime.connect(model="gpt-realtime") as connection:
        for start in range(0, len(turn), 2400):
            await connection.input_audio_buffer.append(audio=encoded(turn[start : start + 2400]))
        events = await events_until(connection, "response.output_audio.delta")
        kinds = [event.type for event in events]
        assert kinds.index("input_audio_buffer.speech_started") < kinds.index("input_audio_buffer.committed")
        [words] = [e for e in events if e.type == "conversation.item.input_audio_transcription.completed"]
        assert words.transcript == "What can you do?"
        for start in range(0, len(turn), 2400):
            await connection.input_audio_buffer.append(audio=encoded(turn[start : start + 2400]))
        events = await events_until(connection, "input_audio_buffer.speech_started")
        events = await events_until(connection, "response.done")
        while events[-1].response.status == "cancelled":
            events = await events_until(connection, "response.done")
        assert events[-1].response.status == "completed"
        assert "2 things" in events[-1].response.output[0].content[0].transcript
    await client.close()


async def test_a_recording_is_transcribed(client: openai.AsyncOpenAI) -> None:
    recording = wav_file(speech().astype(np.float32) / 32768)
    words = await client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", recording), timeout=60)
    assert words.text == "What can you do?"
    stream = await client.audio.transcriptions.create(
        model="whisper-1", file=("speech.wav", recording), stream=True, timeout=60
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    await client.close()


def test_talking_with_recordings_and_an_interruption(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CSM_URL", server.url)
    monkeypatch.setenv("API_KEY", KEY)
    turn = speech()[:36_000]
    recording = np.concatenate([silence(0.3), turn, silence(1.8), turn])  # the answer takes 3.2 s
    (tmp_path / "in.wav").write_bytes(wav_file(recording.astype(np.float32) / 32768))
    command = ["talk", "--input", str(tmp_path / "in.wav"), "--output", str(tmp_path / "out.wav")]
    assert cli.main(command) == 0
    answers = capfd.readouterr().out.splitlines()
    assert answers == [
        "You: What can you do?",
        "Assistant: You said 1 things, and I heard them all.",
        "You: What can you do?",
        "Assistant: You said 2 things, and I heard them all.",
    ]
    with wave.open(str(tmp_path / "out.wav")) as file:
        played = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    sounding = np.flatnonzero([np.any(block) for block in np.array_split(played, len(played) // 480)])
    starts = sounding[np.flatnonzero(np.diff(sounding, prepend=-100) > 20)]  # after 0.4 s of silence or more
    assert len(starts) == 2
    whole = 1920 / 480 * len("You said 1 things, and I heard them all.")
    first, second = np.sum(sounding < starts[1]), np.sum(sounding >= starts[1])
    assert whole / 8 < first < whole / 2  # it fell silent when the user spoke
    assert second > whole * 0.95


def test_what_is_no_recording_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CSM_URL", server.url)
    monkeypatch.setenv("API_KEY", KEY)
    (tmp_path / "in.wav").write_bytes(wav_file(np.zeros(480, np.float32), 16_000))
    assert cli.main(["talk", "--input", str(tmp_path / "in.wav")]) == 2
    assert "16000 Hz" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert cli.main(["talk"]) == 1
    assert "pip install sounddevice" in capfd.readouterr().err
