from __future__ import annotations

import io
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest

from app.errors import Unavailable
from app.settings import Settings
from app.stt.choice import NoTranscriber, choose_transcriber
from app.stt.http_transcriber import HttpTranscriber
from app.stt.local_transcriber import FasterWhisper, LocalTranscriber, PocketSphinx
from app.stt.transcriber import Samples

pytestmark = pytest.mark.anyio

SECOND = np.zeros(24_000, np.float32)


async def transcribe(handler: Callable[[httpx.Request], httpx.Response]) -> str:
    transcriber = HttpTranscriber("http://stt/v1/", "secret", None, 5.0, httpx.MockTransport(handler))
    try:
        return await transcriber.transcribe(SECOND, language="en")
    finally:
        await transcriber.close()


async def test_a_server_gets_a_wav_file_and_its_words_come_back() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"text": " Hello. "})

    assert await transcribe(handle) == "Hello."
    body = seen[0].content
    with wave.open(io.BytesIO(body[body.index(b"RIFF") :])) as file:
        assert (file.getframerate(), file.getnframes()) == (24_000, 24_000)
    assert b"whisper-1" in body
    assert b'name="language"\r\n\r\nen' in body
    assert b'name="prompt"' not in body
    assert seen[0].headers["Authorization"] == "Bearer secret"


def timing_out(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow", request=request)


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (timing_out, "stt_timeout"),
        (unreachable, "stt_failed"),
        (lambda request: httpx.Response(404, text="no model"), "stt_failed"),
        (lambda request: httpx.Response(200, text="words"), "stt_failed"),
        (lambda request: httpx.Response(200, json={"words": []}), "stt_failed"),
    ],
)
async def test_each_way_to_fail_has_a_code(handler: Callable[[httpx.Request], httpx.Response], code: str) -> None:
    with pytest.raises(Unavailable) as raised:
        await transcribe(handler)
    assert raised.value.code == code


class Listener:
    """A recogniser of the tests."""

    def __init__(self, error: Exception | None = None) -> None:
        self.heard: list[int] = []
        self.error = error

    def recognise(self, samples: Samples, language: str | None, prompt: str | None) -> str:
        self.heard.append(samples.size)
        if self.error is not None:
            raise self.error
        return " words "


async def test_a_local_recogniser_is_loaded_once_and_gets_16_khz() -> None:
    listener, loads = Listener(), []

    def load() -> Listener:
        loads.append(1)
        return listener

    transcriber = LocalTranscriber("local", load, 30)
    transcriber._executor._max_workers = 1
    assert [await transcriber.transcribe(SECOND) for _ in range(2)] == ["words", "words"]
    assert len(loads) == 1
    assert all(abs(size - 16_000) < 50 for size in listener.heard)
    await transcriber.close()


async def test_a_local_recogniser_that_fails_says_why(caplog: pytest.LogCaptureFixture) -> None:
    transcriber = LocalTranscriber("local", lambda: Listener(ValueError("no weights")), 30)
    with pytest.raises(Unavailable, match="local failed: ValueError: no weights") as raised:
        await transcriber.transcribe(SECOND)
    assert raised.value.code == "stt_failed"
    await transcriber.close()


class Segment:
    text = " Hello."


class Whisper:
    """In place of faster-whisper's model."""

    def __init__(self, model: str, **options: object) -> None:
        self.model = model

    def transcribe(self, samples: Samples, **options: object) -> tuple[list[Segment], None]:
        return [Segment()], None


@pytest.mark.parametrize(
    ("model", "repository"),
    [("small.en", "Systran/faster-whisper-small.en"), ("someone/whisper", "someone/whisper"), ("{folder}/own", None)],
)
async def test_whispers_weights_are_downloaded_where_progress_is_shown(
    model: str, repository: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The package's own download has its progress bar turned off."""
    asked: list[str] = []

    def download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append(repository)
        assert "model.bin" in allow_patterns
        return "/hub/snapshot"

    package, utils = ModuleType("faster_whisper"), ModuleType("faster_whisper.utils")
    vars(package)["WhisperModel"] = Whisper
    vars(utils)["_MODELS"] = {"small.en": "Systran/faster-whisper-small.en"}
    monkeypatch.setitem(sys.modules, "faster_whisper", package)
    monkeypatch.setitem(sys.modules, "faster_whisper.utils", utils)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    (tmp_path / "own").mkdir()
    model = model.format(folder=tmp_path)
    whisper = FasterWhisper(model)
    assert asked == ([] if repository is None else [repository])
    assert whisper._model.model == (model if repository is None else "/hub/snapshot")
    assert whisper.recognise(SECOND, None, None) == " Hello."


async def test_pocketsphinx_understands_an_english_word_or_two() -> None:
    pytest.importorskip("pocketsphinx")
    from tests.app.realtime.harness import speech

    words = PocketSphinx().recognise(speech()[::3].astype(np.float32)[:0], None, None)
    assert words == ""  # nothing was said
    transcriber = LocalTranscriber("pocketsphinx", PocketSphinx, 60)
    heard = await transcriber.transcribe(speech().astype(np.float32) / 32768)
    assert len(heard.split()) >= 2
    await transcriber.close()


async def test_the_choice_follows_the_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.stt.choice.is_installed", lambda package: False)
    none = choose_transcriber(settings)
    assert isinstance(none, NoTranscriber)
    with pytest.raises(Unavailable, match="STT_BASE_URL") as raised:
        await none.transcribe(SECOND)
    assert raised.value.code == "stt_not_configured"
    chosen = choose_transcriber(settings.model_copy(update={"stt_base_url": "http://stt/v1", "stt_model": "large"}))
    assert (type(chosen), chosen.name) == (HttpTranscriber, "large")
    await chosen.close()
    monkeypatch.setattr("app.stt.choice.is_installed", lambda package: package == "faster_whisper")
    assert choose_transcriber(settings).name == "faster-whisper small.en"
    monkeypatch.setattr("app.stt.choice.is_installed", lambda package: package == "pocketsphinx")
    assert choose_transcriber(settings).name == "pocketsphinx"
