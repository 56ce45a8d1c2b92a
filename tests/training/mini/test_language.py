"""csm-mini's alphabet and what its steps read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.model.tokenizer import TextTokenizer
from training.batches import collate
from training.example import Example
from training.mini.codec import CODEBOOKS, CODES, build_codec
from training.mini.guidance import Guidance, _near
from training.mini.language import POSITIONS, Reader, build_model, looks
from training.mini.pronunciation import build_tokenizer
from training.sequence import Layout
from training.settings import TrainSettings
from training.trainer import Hooks, train

LEXICON = {"some": ["s", "ʌ", "m"], "words": ["w", "ˈɜː", "d", "z"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(LEXICON).save(str(path))
    return TextTokenizer(path)


def examples(count: int = 40) -> list[tuple[str, Example]]:
    rng = np.random.default_rng(0)
    return [
        (
            ("anna", "clara", "f1@40")[each % 3],
            Example(str(each), "some words " * (1 + each % 4), 0, rng.integers(1, CODES, (20 + each, CODEBOOKS))),
        )
        for each in range(count)
    ]


def aligned(layout: Layout) -> list[tuple[str, Example]]:
    """The same, with a frame for each token."""
    made = []
    for number, (voice, example) in enumerate(examples()):
        codes = np.random.default_rng(number).integers(1, CODES, (len(layout.tokens(example)) - 5, CODEBOOKS))
        made.append((voice, replace(example, codes=codes, looks=looks(layout.tokens(example), len(codes)))))
    return made


def test_tokens_are_said_one_after_the_other(layout: Layout) -> None:
    tokens = layout.tokens(Example("1", "Some words.", 3, np.zeros((9, CODEBOOKS), np.int64)))
    # begin [ 3 ] s ʌ m w ˈɜː ˈɜː d z . end
    assert len(tokens) == 14
    np.testing.assert_array_equal(looks(tokens, 9), np.arange(4, 13))
    assert looks(tokens, 8) is None  # not a frame for each


def test_a_voice_of_few_clips_is_left_out(layout: Layout) -> None:
    reader = Reader([*examples(6), ("rare", examples(1)[0][1])], layout, rows=4)
    assert "rare" not in reader._names


@pytest.fixture(scope="module")
def layout(tokenizer: TextTokenizer) -> Layout:
    class Config:
        num_codebooks, vocab_size, max_position_embeddings, codebook_eos_token_id = CODEBOOKS, CODES + 3, POSITIONS, 0

    return Layout(tokenizer, Config())


def test_a_row_is_one_voice_and_fits(layout: Layout) -> None:
    spoken_by = {example.name: voice for voice, example in examples()}
    reader = Reader(examples(), layout, rows=2)
    for step in range(20):
        rows = reader(step, np.random.default_rng((1, step)))
        for row in rows:
            voices = {spoken_by[segment.name] for segment in row.segments}
            assert len(voices) == 1
            assert layout.length(row) <= POSITIONS
            if row.heard == 0:  # then its number has to tell the voice
                assert {segment.speaker for segment in row.segments} == {["anna", "clara"].index(*voices)}


def test_the_hint_points_from_speech_to_the_tokens_it_says(layout: Layout) -> None:
    rows = Reader(aligned(layout), layout, rows=1)(0, np.random.default_rng(5))
    batch = collate(rows, layout, 1.0, np.random.default_rng(0))
    near, speaks = _near(batch)
    assert near.shape == (batch.rows, batch.length, batch.length)
    assert int(speaks.sum()) == len(batch.frames)
    place = 0
    for segment in rows[0].segments:
        tokens, frames = len(layout.tokens(segment)), len(segment.codes)
        speech = place + tokens - 1  # the first frame is said by the place before it
        assert int(near[0, speech].argmax()) == place + 4  # the first phoneme, behind the begin token and the brackets
        assert int(near[0, speech + frames].argmax()) == place + tokens - 1  # the closing frame: the text's end
        assert float(near[0, speech, speech + 5 :].max()) < 0.01
        place += layout.length_of(segment)


def test_where_nobody_knows_there_is_no_hint(layout: Layout) -> None:
    rows = Reader(examples(), layout, rows=1)(0, np.random.default_rng(5))
    _, speaks = _near(collate(rows, layout, 1.0, np.random.default_rng(0)))
    assert int(speaks.sum()) == sum(len(row.segments) for row in rows)  # closing frames alone


def test_it_learns_and_its_hint_is_taken(layout: Layout, tmp_path: Path) -> None:
    model = build_model(build_codec(0), 0)
    guidance, told = Guidance(model, 1.0), []

    def hint(losses: object, batch: object) -> torch.Tensor:
        loss = guidance(losses, batch)  # type: ignore[arg-type]
        told.append(float(loss.detach()))
        return loss

    some = aligned(layout)[:9]
    settings = TrainSettings(steps=12, learning_rate=3e-3, warmup=2, schedule="constant", depth_share=0.2, device="cpu")
    train(model, layout, lambda _, rng: Reader(some, layout, 1)(0, rng)[:1], settings, tmp_path, Hooks(extra_loss=hint))
    assert told[-1] < told[0]
