"""csm-mini's alphabet and what its steps read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.model.tokenizer import TextTokenizer
from models.csm_mini_recipe.codec import CODEBOOKS, CODES, build_codec
from models.csm_mini_recipe.codes import LABELS
from models.csm_mini_recipe.language import POSITIONS, QuickLayout, Reader, build_model
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
    """A frame for each token, of which "some words" are eight. No code is a label."""
    rng = np.random.default_rng(0)
    made = []
    for each in range(count):
        said = 1 + each % 4
        codes = rng.integers(1, CODES - LABELS, (8 * said, CODEBOOKS))
        made.append((("anna", "clara", "f1@40")[each % 3], Example(str(each), "some words " * said, 0, codes)))
    return made


@pytest.mark.parametrize("speaker", range(10))
def test_a_text_is_taken_apart_as_any_other_layout_does(
    layout: QuickLayout, tokenizer: TextTokenizer, speaker: int
) -> None:
    clip = Example("1", "Some words.", speaker, np.ones((9, CODEBOOKS), np.int64))
    np.testing.assert_array_equal(layout.tokens(clip), tokenizer.encode(clip.text, speaker))


def test_a_voice_of_few_clips_is_left_out(layout: QuickLayout) -> None:
    reader = Reader([*examples(6), ("rare", examples(1)[0][1])], layout, rows=4)
    assert "rare" not in reader._names


@pytest.fixture(scope="module")
def layout(tokenizer: TextTokenizer) -> QuickLayout:
    class Config:
        num_codebooks, vocab_size, max_position_embeddings, codebook_eos_token_id = CODEBOOKS, CODES + 3, POSITIONS, 0

    return QuickLayout(tokenizer, Config())


def test_a_row_is_one_voice_and_fits(layout: QuickLayout) -> None:
    spoken_by = {example.name: voice for voice, example in examples()}
    reader = Reader(examples(), layout, rows=2)
    for step in range(20):
        rows = reader(step, np.random.default_rng((1, step)))
        for row in rows:
            voices = {spoken_by[segment.name] for segment in row.segments}
            assert len(voices) == 1
            assert layout.sequence_length(row) <= POSITIONS
            if row.prompt_segments == 0:  # then its number has to tell the voice
                assert {segment.speaker for segment in row.segments} == {SPEAKERS.index(*voices)}


def test_what_is_said_is_labelled_and_what_is_heard_is_not(layout: QuickLayout) -> None:
    reader = Reader(examples(), layout, rows=1)
    rows = [row for step in range(10) for row in reader(step, np.random.default_rng((2, step)))]
    assert {row.prompt_segments for row in rows} == {0, 1}
    for row in rows:
        for number, segment in enumerate(row.segments):
            last = segment.codes[:, -1]
            if number < row.prompt_segments:
                assert last.max() < CODES - LABELS
            else:
                np.testing.assert_array_equal(last - (CODES - LABELS), layout.tokens(segment)[4:-2])


def test_it_learns(layout: QuickLayout, tmp_path: Path) -> None:
    model, told = build_model(build_codec(0), 0), []
    settings = TrainSettings(
        steps=12, learning_rate=3e-3, warmup=2, schedule="constant", depth_share=0.2, device="cpu", log_every=1
    )
    some = examples()[:9]
    hooks = Hooks(on_log=lambda figures: told.append(figures["loss"]))
    train(model, layout, lambda _, rng: Reader(some, layout, 1)(0, rng)[:1], settings, tmp_path, hooks)
    assert sum(told[-3:]) < sum(told[:3])
