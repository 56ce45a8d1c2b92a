"""Training data: one frame per token, voices and shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.fallback.espeak_library import EspeakLibrary
from engine.fallback.pitch import median_pitch
from engine.types import FRAME_SAMPLES, SAMPLE_RATE
from models.csm_mini_recipe.pronunciation import build_tokenizer
from models.csm_mini_recipe.speech import (
    PROMPTS,
    VOICES,
    lexicon,
    read_dataset,
    synthesize,
    synthesize_unaligned,
    write_shard,
    write_voices,
)

pytest.importorskip("pocketsphinx")


@pytest.mark.parametrize(
    "text",
    [
        "The end of the street, in the garden.",  # words that espeak-ng speaks as one
        "I",
        "Stormy zyzzyva!",  # a word not in the lexicon
        "That I would like to be there?",
    ],
)
def test_every_token_takes_one_frame(text: str) -> None:
    tokens = build_tokenizer(lexicon()).encode(text, add_special_tokens=False).ids
    assert synthesize(EspeakLibrary(), text, VOICES["anna"]).size == len(tokens) * FRAME_SAMPLES


def test_voices_are_written_with_transcripts(tmp_path: Path) -> None:
    write_voices(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{kind}" for name in VOICES for kind in ("txt", "wav")
    )
    assert (tmp_path / "anna.txt").read_text(encoding="utf-8").strip() == PROMPTS["anna"]


def test_aligned_voices_keep_their_pitch() -> None:
    library = EspeakLibrary()
    for voice in VOICES.values():
        text = PROMPTS["bruno"]
        aligned, plain = (
            median_pitch(speech.astype(np.float32) / 32_768, SAMPLE_RATE)
            for speech in (synthesize(library, text, voice), synthesize_unaligned(library, text, voice))
        )
        assert aligned is not None
        assert plain is not None
        assert 0.9 < aligned / plain < 1.1


def test_an_existing_shard_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.csm_mini_recipe.speech._CLIPS_PER_SHARD", 3)
    index = write_shard(tmp_path, 1, 0)
    before = index.stat().st_mtime_ns
    clips = list(read_dataset(tmp_path))
    assert [name for name, _, _ in clips] == ["00000-000", "00000-001", "00000-002"]
    assert all(samples.size == clip.samples for _, clip, samples in clips)
    write_shard(tmp_path, 1, 0)
    assert index.stat().st_mtime_ns == before
