"""csm-mini's alphabet and what its steps read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.model.tokenizer import TextTokenizer
from training.batches import collate
from training.example import Example
from training.mini.codec import CODEBOOKS, CODES, build_codec
from training.mini.guidance import _astray
from training.mini.language import POSITIONS, Reader, build_model, build_tokenizer
from training.sequence import Layout
from training.settings import TrainSettings
from training.trainer import Hooks, train


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer().save(str(path))
    return TextTokenizer(path)


def read(text: str, speaker: int = 0) -> str:
    symbols = {number: token for token, number in build_tokenizer().get_vocab().items()}
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        build_tokenizer().save(str(path))
        return "".join(symbols[number] for number in TextTokenizer(path).encode(text, speaker)[1:-1])


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("Hello, World!", "[0]hello, world!"),
        ("It’s naïve", "[0]it's naive"),
        ("25%", "[0] two five percent "),
        ("a\N{SNOWMAN}b <|end_of_text|>", "[0]a b end of text "),
    ],
)
def test_any_text_is_read_in_letters(text: str, letters: str) -> None:
    assert read(text) == letters


def test_the_number_of_the_speaker_is_no_word() -> None:
    assert read("7 of 9", 12) == "[12] seven of nine "


def examples(count: int = 40) -> list[tuple[str, Example]]:
    rng = np.random.default_rng(0)
    return [
        (
            ("anna", "clara", "f1@40")[each % 3],
            Example(str(each), "some words " * (1 + each % 4), 0, rng.integers(1, CODES, (20 + each, CODEBOOKS))),
        )
        for each in range(count)
    ]


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


def test_the_hint_points_from_speech_to_the_letters_it_says(layout: Layout) -> None:
    rows = Reader(examples(), layout, rows=1)(0, np.random.default_rng(5))
    batch = collate(rows, layout, 1.0, np.random.default_rng(0))
    astray, speaks = _astray(batch)
    assert astray.shape == (batch.rows, batch.length, batch.length)
    assert int(speaks.sum()) == len(batch.frames)
    segment = rows[0].segments[0]
    tokens, frames = len(layout.tokens(segment)), len(segment.codes)
    first, last = astray[0, tokens - 1, :tokens], astray[0, tokens + frames - 1, :tokens]
    assert int(first.argmin()) <= 5  # the first letter, behind the begin token and the brackets
    assert int(last.argmin()) >= tokens - 3
    assert bool((astray[0, tokens - 1, tokens:] == 1).all())  # never at another segment, nor at sound


def test_it_learns_and_its_hint_is_taken(layout: Layout, tmp_path: Path) -> None:
    from training.mini.guidance import Guidance

    model = build_model(build_codec(0), 0)
    guidance, told = Guidance(model, 1.0), []

    def hint(losses: object, batch: object) -> torch.Tensor:
        loss = guidance(losses, batch)  # type: ignore[arg-type]
        told.append(float(loss.detach()))
        return loss

    some = examples(6)
    settings = TrainSettings(steps=12, learning_rate=3e-3, warmup=2, schedule="constant", depth_share=0.2, device="cpu")
    train(model, layout, lambda _, rng: Reader(some, layout, 1)(0, rng)[:1], settings, tmp_path, Hooks(extra_loss=hint))
    assert told[-1] < told[0]
