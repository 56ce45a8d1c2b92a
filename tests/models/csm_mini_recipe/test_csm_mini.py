"""The checkpoint in the repository: its files, voices and reserved codes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from app.pool.engine_loader import SMALL_MODEL
from engine import EngineConfig, SpeechRequest, VoicePrompt, load_engine
from engine.fallback.pitch import median_pitch
from engine.types import SAMPLE_RATE
from models.csm_mini_recipe.codec import CODES
from models.csm_mini_recipe.codes import LABEL_COUNT, encode
from models.csm_mini_recipe.language import read_checkpoint
from models.csm_mini_recipe.speech import PROMPTS, SPEAKERS, VOICES
from training.audio import read_audio

RECORDINGS = SMALL_MODEL / "voices"
LARGEST = 25_000_000  # bytes in all


@pytest.fixture(scope="module")
def engine() -> Any:
    engine = load_engine(EngineConfig(str(SMALL_MODEL), device="cpu", slots=2))
    yield engine
    engine.close()


def recording(name: str) -> VoicePrompt:
    return VoicePrompt(read_audio(RECORDINGS / f"{name}.wav").samples, (RECORDINGS / f"{name}.txt").read_text().strip())


def test_the_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in SMALL_MODEL.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files.keys()
    assert sum(files.values()) < LARGEST


@pytest.mark.parametrize("name", list(VOICES))
def test_recordings_are_encoded_without_reserved_codes(name: str) -> None:
    prompt = recording(name)
    assert prompt.transcript == PROMPTS[name]
    codes = encode(read_checkpoint(SMALL_MODEL).codec_model.eval(), torch.from_numpy(prompt.samples)[None])[0]
    assert int(codes[:, 0].min()) > 0
    assert int(codes[:, -1].max()) < CODES - LABEL_COUNT


@pytest.mark.parametrize("name", list(VOICES))
def test_speech_keeps_the_pitch_of_its_voice(engine: Any, name: str) -> None:
    """The voice given by a recording or by a speaker number; every clip ends with a stop frame."""
    prompt, text = recording(name), "There is some bread on the table, and a little butter."
    expected_pitch = median_pitch(prompt.samples, SAMPLE_RATE)
    assert expected_pitch
    for request in (
        SpeechRequest(text, voice=prompt, seed=1),
        SpeechRequest(text, speaker=SPEAKERS.index(name), seed=1),
    ):
        speech = engine.generate(request)
        assert 1.5 < speech.samples.size / SAMPLE_RATE < 6
        assert (median_pitch(speech.samples, SAMPLE_RATE) or 0) == pytest.approx(expected_pitch, rel=0.1)


def test_the_model_card_lists_speaker_numbers() -> None:
    card = (SMALL_MODEL / "README.md").read_text(encoding="utf-8")
    found = re.search(r"`(\w+)` \(speaker 0\), `(\w+)` \(1\), `(\w+)` \(2\), `(\w+)` \(3\)", card)
    assert found
    assert found.groups() == SPEAKERS
