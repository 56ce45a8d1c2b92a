"""Moonshine's files, read and run: a tiny model of random weights, beside the same in NumPy."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.audio.encoders.wav import wav_file
from app.audio.rate_converter import resample
from app.errors import Unavailable
from app.settings import Settings
from app.stt.choice import choose_transcriber
from app.stt.local_transcriber import LocalTranscriber
from app.stt.moonshine import FILES, MODELS, Moonshine, is_moonshine, pieces
from app.stt.transcriber import Samples
from tests.engine.hub_server import Hub, running_hub, use_hub

from .moonshine_files import POSITIONS, WORDS, TinyMoonshine

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.anyio

RATE = 16_000
REPOSITORY = MODELS["moonshine/base"]
SECOND = np.random.default_rng(3).standard_normal(24_000).astype(np.float32).clip(-3, 3) / 3


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny() -> TinyMoonshine:
    return TinyMoonshine()


@pytest.fixture(scope="module")
def folder(tiny: TinyMoonshine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("moonshine") / "moonshine-mini")


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as server:
        use_hub(server, monkeypatch, tmp_path / "cache")
        server.repositories[REPOSITORY] = folder
        yield server


async def failure(transcriber: LocalTranscriber) -> str:
    with pytest.raises(Unavailable) as raised:
        await transcriber.transcribe(SECOND)
    assert raised.value.code == "stt_failed"
    return str(raised.value)


def test_its_words_are_those_of_the_same_model_without_a_cache(tiny: TinyMoonshine, folder: Path) -> None:
    recogniser, counts = Moonshine(str(folder)), set()
    for seconds in (0.13, 0.5, 1.2, 3.0):
        limit = min(POSITIONS - 1, math.ceil(seconds * 13))
        for seed in range(8):
            said = tiny.words(noise(seconds, seed), limit)
            assert recogniser.recognise(noise(seconds, seed), "en", None) == said
            counts.add((len(said.split()) == limit, said))
    assert len(counts) > 12
    assert {by_limit for by_limit, _ in counts} == {True, False}


def test_graphs_may_ask_for_attention_masks(tiny: TinyMoonshine, tmp_path: Path) -> None:
    recogniser = Moonshine(str(tiny.write(tmp_path / "moonshine-mini", masks=True)))
    for seed in range(4):
        assert recogniser.recognise(noise(1, seed), None, None) == tiny.words(noise(1, seed), 13)


def test_a_click_is_padded_to_what_the_encoder_needs(tiny: TinyMoonshine, folder: Path) -> None:
    click = noise(0.01)
    assert Moonshine(str(folder)).recognise(click, None, None) == tiny.words(np.pad(click, (0, 2000 - click.size)), 2)
    assert Moonshine(str(folder)).recognise(click[:0], None, None) == ""


def test_long_recordings_are_cut_in_pauses(tiny: TinyMoonshine, folder: Path) -> None:
    recording = noise(47)
    for start in (15.0, 29.5):
        recording[round(start * RATE) : round((start + 0.3) * RATE)] = 0
    parts = list(pieces(recording))
    assert np.array_equal(np.concatenate(parts), recording)
    assert [each.size / RATE for each in parts] == [
        pytest.approx(15.15, abs=0.15), pytest.approx(14.5, abs=0.3), pytest.approx(17.3, abs=0.2),
    ]  # fmt: skip
    said = Moonshine(str(folder)).recognise(recording, None, None)
    assert said.split() == [word for each in parts for word in tiny.words(each, POSITIONS - 1).split()]


async def test_it_is_downloaded_at_its_first_use_with_a_progress_bar(
    tiny: TinyMoonshine,
    hub: Hub,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    chosen = settings.model_copy(update={"stt_model": "moonshine/base"})
    transcriber = choose_transcriber(chosen)
    assert hub.names == []
    said = await transcriber.transcribe(SECOND)
    assert said == tiny.words(resample(SECOND, 24_000, RATE), 13) != ""
    await transcriber.close()
    assert set(hub.names) == {f"{REPOSITORY}/{name}" for name in FILES}
    assert "decoder_model_merged.onnx: 100%" in capsys.readouterr().err
    hub.repositories.clear()  # from now on everything is refused
    again = choose_transcriber(chosen)
    assert await again.transcribe(SECOND) == said
    await again.close()


async def test_a_download_that_fails_is_told_and_tried_again(hub: Hub, settings: Settings, folder: Path) -> None:
    hub.repositories.clear()
    transcriber = choose_transcriber(settings.model_copy(update={"stt_model": "moonshine/base"}))
    assert isinstance(transcriber, LocalTranscriber)
    message = await failure(transcriber)
    assert message.startswith(f"moonshine base failed: OSError: {REPOSITORY} cannot be downloaded (")
    assert "check STT_MODEL and the connection" in message
    hub.repositories[REPOSITORY] = folder
    assert await transcriber.transcribe(SECOND) != ""
    await transcriber.close()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut short", "missing"])
async def test_a_damaged_file_is_named(tiny: TinyMoonshine, tmp_path: Path, name: str, damage: str) -> None:
    file = tiny.write(tmp_path / "moonshine-mini") / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-40])
    transcriber = LocalTranscriber("moonshine mini", lambda: Moonshine(str(tmp_path / "moonshine-mini")), 30)
    message = await failure(transcriber)
    assert f"moonshine mini failed: ValueError: {Path(name).name} cannot be read (" in message
    assert "damaged or of another model" in message
    await transcriber.close()


async def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    transcriber = LocalTranscriber("moonshine mini", lambda: Moonshine(str(folder)), 30)
    assert "moonshine mini failed: ModuleNotFoundError: import of onnxruntime" in await failure(transcriber)
    await transcriber.close()


async def test_the_service_recognises_with_it_and_says_so(folder: Path, settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"stt_model": str(folder)})) as app:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            assert (await client.get("/health")).json()["stt"] == "moonshine moonshine-mini"
            answer = await client.post(
                "/v1/audio/transcriptions",
                files={"file": ("speech.wav", wav_file(SECOND), "audio/wav")},
                headers={"X-API-Key": "first-key"},
            )
    assert answer.headers["X-STT-Engine"] == "moonshine moonshine-mini"
    assert set(answer.json()["text"].split()) <= set(WORDS)
    assert answer.json()["text"]


async def test_the_setting_chooses_it(settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed, unless another server recognises."""
    names = {
        "moonshine/tiny": "moonshine tiny",
        "onnx-community/moonshine-tiny-ko-ONNX": "moonshine onnx-community/moonshine-tiny-ko-ONNX",
        str(folder): "moonshine moonshine-mini",
        "small.en": "faster-whisper small.en",
        None: "faster-whisper small.en",
    }
    monkeypatch.setattr("app.stt.choice.is_installed", lambda package: True)
    for model, name in names.items():
        assert choose_transcriber(settings.model_copy(update={"stt_model": model})).name == name
    server = {"stt_base_url": "http://stt/v1", "stt_model": "moonshine/tiny"}
    chosen = choose_transcriber(settings.model_copy(update=server))
    assert chosen.name == "moonshine/tiny"
    await chosen.close()
    assert not is_moonshine("/srv/moonshine/whisper-small")
