"""Codes of a voice that another engine has encoded: taken where they fit, made and kept where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import Codes, SpeechRequest, VoicePrompt
from engine.engine_core import CsmEngine

from .checkpoints import build_model, write_checkpoint


class Store:
    """Codes in memory, by recording and codec."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str], Codes] = {}
        self.saves = 0

    def load(self, content: str, codec: str) -> Codes | None:
        return self.codes.get((content, codec))

    def save(self, content: str, codec: str, codes: Codes) -> None:
        self.codes[content, codec] = codes
        self.saves += 1


def speak(engine: CsmEngine, voice: VoicePrompt) -> np.ndarray:
    return engine.generate(SpeechRequest(text="hello", voice=voice, seed=3, max_frames=4, ignore_stop=True)).samples


def test_a_second_engine_takes_the_codes_of_the_first(
    checkpoint: Path,
    load: Callable[..., CsmEngine],
    voice: VoicePrompt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    stored = replace(voice, codes_store=store)
    first = load(checkpoint)
    expected = speak(first, voice)  # without a store
    assert store.saves == 0
    fresh = load(checkpoint)
    np.testing.assert_array_equal(speak(fresh, stored), expected)
    assert store.saves == 1
    second = load(checkpoint)
    encoded: list[int] = []
    encode = second._runner.encode
    monkeypatch.setattr(second._runner, "encode", lambda samples, rate: encoded.append(1) or encode(samples, rate))
    np.testing.assert_array_equal(speak(second, stored), expected)
    assert encoded == []
    [((content, codec), right)] = store.codes.items()
    assert content == voice.key
    for wrong in (right[:-1], right[:, 1:], right + 10_000, right - 10_000, np.zeros((0, 0), np.int64)):
        another = replace(voice, transcript=f"{wrong.shape} {wrong.sum()}", codes_store=store)  # not in the cache
        store.codes[another.key, codec] = wrong
        speak(second, another)
        np.testing.assert_array_equal(store.codes[another.key, codec], right)
    assert len(encoded) == 5


def test_another_codec_has_codes_of_its_own(
    checkpoint: Path, load: Callable[..., CsmEngine], voice: VoicePrompt, tmp_path: Path
) -> None:
    store = Store()
    other = write_checkpoint(tmp_path / "other", build_model(seed=1))
    for directory in (checkpoint, other):
        speak(load(directory), replace(voice, codes_store=store))
    assert len({codec for _, codec in store.codes}) == store.saves == 2
