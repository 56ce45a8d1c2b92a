"""Kokoro's English voices from the Hub: fetched once, checked, and never needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import (
    KOKORO_MODEL,
    SAMPLE_RATE,
    CheckpointError,
    Engine,
    EngineConfig,
    SpeechRequest,
    VoicePrompt,
    load_engine,
)
from engine.fallback.pitch import median_pitch
from engine.kokoro.hub_voices import STYLES, fetch_styles
from engine.kokoro.model import read_styles

from .hub_server import TOKEN, Hub, running_hub, use_hub

REPOSITORY = "someone/voices"
TEXT = "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background."


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub whose English voices are the installed ones under other names."""
    installed, folder = read_styles(), tmp_path / "repository" / "voices"
    folder.mkdir(parents=True)
    for name, style in zip(STYLES, ("jf_gongitsune", "jm_kumo", "jf_nezumi", "jf_alpha"), strict=True):
        installed[style].tofile(folder / f"{name}.bin")
    with running_hub() as server:
        use_hub(server, monkeypatch, tmp_path / "cache")
        server.repositories[REPOSITORY] = folder.parent
        yield server


def engine() -> Engine:
    return load_engine(EngineConfig(model=KOKORO_MODEL, kokoro_voices=REPOSITORY))


def test_english_voices_are_fetched_once_and_spoken(hub: Hub) -> None:
    first = engine()
    first.close()
    hub.repositories.clear()  # from now on everything is refused
    second = engine()
    try:
        for each in (first, second):
            assert each.status().detail["voices"] == ["heart", "michael", "bella", "fenrir"]
        high, low = (second.generate(SpeechRequest(TEXT, speaker=speaker)).samples for speaker in (0, 1))
        pitches = [median_pitch(samples, SAMPLE_RATE) for samples in (high, low)]
        assert pitches == [pytest.approx(238, rel=0.1), pytest.approx(93, rel=0.1)]  # as bench/LOG.md has them
        imitated = second.generate(SpeechRequest("Hi.", voice=VoicePrompt(low))).samples
        assert np.array_equal(imitated, second.generate(SpeechRequest("Hi.", speaker=1)).samples)
    finally:
        second.close()


def test_without_them_those_that_are_installed_speak(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.repositories.clear()
    with caplog.at_level("INFO"):
        fallback = engine()
    fallback.close()
    assert fallback.status().detail["voices"] == ["middle", "deep", "high", "low"]
    assert "the voices that are installed" in caplog.text
    assert hub.names == [f"{REPOSITORY}/voices/{STYLES[0]}.bin"]  # asked once


def test_a_gated_repository_gets_the_token(hub: Hub) -> None:
    hub.gated.add(REPOSITORY)
    with pytest.raises(CheckpointError, match="401"):
        fetch_styles(REPOSITORY, None)
    assert list(fetch_styles(REPOSITORY, TOKEN)) == list(STYLES)


@pytest.mark.parametrize("damage", ["missing", "short", "not a number"])
def test_a_file_that_is_no_voice_is_refused(hub: Hub, damage: str) -> None:
    file = hub.repositories[REPOSITORY] / "voices" / f"{STYLES[2]}.bin"
    if damage == "missing":
        file.unlink()
    elif damage == "short":
        file.write_bytes(file.read_bytes()[:-4])
    else:
        values = np.fromfile(file, np.float32)
        values[5] = np.nan
        values.tofile(file)
    with pytest.raises(CheckpointError, match=STYLES[2]):
        fetch_styles(REPOSITORY, None)


def test_offline_the_hub_is_not_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        fetch_styles(REPOSITORY, None)
    assert hub.names == []
