"""csm-mini's text layout and packed training sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.model.tokenizer import TextTokenizer
from models.csm_mini_recipe.codec import CODEBOOKS, CODES, build_codec
from models.csm_mini_recipe.codes import LABEL_COUNT
from models.csm_mini_recipe.language import POSITIONS, CachedLayout, PackedSampler, build_model
from models.csm_mini_recipe.pronunciation import build_tokenizer
from models.csm_mini_recipe.speech import SPEAKERS
from training.example import Example
from training.settings import TrainSettings
from training.trainer import Hooks, train

LEXICON = {"some": ["s", "ʌ", "m"], "words": ["w", "ˈɜː", "d", "z"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(LEXICON).save(str(path))
    return TextTokenizer(path)


def examples(count: int = 40) -> list[tuple[str, Example]]:
    """One frame per token, of which "some words" has eight. No code is a label."""
    rng = np.random.default_rng(0)
    clips = []
    for each in range(count):
        repeats = 1 + each % 4
        codes = rng.integers(1, CODES - LABEL_COUNT, (8 * repeats, CODEBOOKS))
        clips.append((("anna", "clara", "f1@40")[each % 3], Example(str(each), "some words " * repeats, 0, codes)))
    return clips


@pytest.mark.parametrize("speaker", range(10))
def test_cached_tokens_equal_the_tokenizers(layout: CachedLayout, tokenizer: TextTokenizer, speaker: int) -> None:
    clip = Example("1", "Some words.", speaker, np.ones((9, CODEBOOKS), np.int64))
    np.testing.assert_array_equal(layout.tokens(clip), tokenizer.encode(clip.text, speaker))


def test_voices_with_few_clips_are_skipped(layout: CachedLayout) -> None:
    sampler = PackedSampler([*examples(6), ("rare", examples(1)[0][1])], layout, rows=4)
    assert "rare" not in sampler._voices


@pytest.fixture(scope="module")
def layout(tokenizer: TextTokenizer) -> CachedLayout:
    class Config:
        num_codebooks, vocab_size, max_position_embeddings, codebook_eos_token_id = CODEBOOKS, CODES + 3, POSITIONS, 0

    return CachedLayout(tokenizer, Config())


def test_rows_have_one_voice_and_fit_the_context(layout: CachedLayout) -> None:
    voice_of = {example.name: voice for voice, example in examples()}
    sampler = PackedSampler(examples(), layout, rows=2)
    for step in range(20):
        rows = sampler(step, np.random.default_rng((1, step)))
        for row in rows:
            voices = {voice_of[segment.name] for segment in row.segments}
            assert len(voices) == 1
            assert layout.sequence_length(row) <= POSITIONS
            if row.prompt_segments == 0:  # then the speaker number identifies the voice
                assert {segment.speaker for segment in row.segments} == {SPEAKERS.index(*voices)}


def test_targets_are_labelled_and_prompts_are_not(layout: CachedLayout) -> None:
    sampler = PackedSampler(examples(), layout, rows=1)
    rows = [row for step in range(10) for row in sampler(step, np.random.default_rng((2, step)))]
    assert {row.prompt_segments for row in rows} == {0, 1}
    for row in rows:
        for number, segment in enumerate(row.segments):
            last = segment.codes[:, -1]
            if number < row.prompt_segments:
                assert last.max() < CODES - LABEL_COUNT
            else:
                np.testing.assert_array_equal(last - (CODES - LABEL_COUNT), layout.tokens(segment)[4:-2])


def test_training_lowers_the_loss(layout: CachedLayout, tmp_path: Path) -> None:
    model, losses = build_model(build_codec(0), 0), []
    settings = TrainSettings(
        steps=12, learning_rate=3e-3, warmup=2, schedule="constant", depth_share=0.2, device="cpu", log_every=1
    )
    clips = examples()[:9]
    hooks = Hooks(on_log=lambda figures: losses.append(figures["loss"]))
    train(model, layout, lambda _, rng: PackedSampler(clips, layout, 1)(0, rng)[:1], settings, tmp_path, hooks)
    assert sum(losses[-3:]) < sum(losses[:3])
