"""What the model learns from lies as what it reads when it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.context import Context, TextChunk
from engine.model.config import read_config
from engine.model.tokenizer import TextTokenizer
from engine.types import Codes
from training.base_model import BaseModel
from training.batches import collate
from training.errors import LayoutError
from training.example import Example
from training.sequence import Sequence

from .layouts import Position, positions_of


def test_a_sequence_lies_as_the_engine_lays_out_voice_history_and_text(
    base: BaseModel, base_directory: Path, examples: list[Example]
) -> None:
    voice, before, said = examples[3], examples[1], examples[2]
    tokenizer = TextTokenizer(base_directory / "tokenizer.json")
    config = read_config(base_directory / "config.json")
    silence = np.full((1, config.codebooks), config.stop_code)
    context = Context(config.positions, 0, silence)
    for heard in (voice, before):
        context.add_segment(tokenizer.encode(heard.text, heard.speaker), heard.codes)
    chunk = TextChunk(said.text, tokenizer.encode(said.text, said.speaker), max_frames=100)
    engines: list[Position] = []
    for span in context.begin_chunk(chunk).spans:
        engines += span if isinstance(span, list) else map(tuple, span.tolist())
    engines.append(chunk.tokens[-1])  # the first step's own input
    context.finish_chunk(said.codes, fed=len(said.codes))
    engines += map(tuple, np.concatenate([said.codes, silence]).tolist())

    sequence = Sequence((voice, before, said), heard=2)
    ours = positions_of(collate([sequence], base.layout, 1.0, np.random.default_rng(0)))
    assert ours == engines
    assert base.layout.length(sequence) == len(engines) == context.position + 1


def test_white_space_is_folded_as_the_engine_folds_it(base: BaseModel, examples: list[Example]) -> None:
    spread = replace(examples[0], text=f"  {examples[0].text}\n".replace(" ", " \t "))
    np.testing.assert_array_equal(base.layout.tokens(spread), base.layout.tokens(examples[0]))


def test_something_must_be_left_to_learn(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match="heard is 2 of 2"):
        Sequence(tuple(examples[:2]), heard=2)


@pytest.mark.parametrize(
    ("codes", "wrong"),
    [
        (np.zeros((5, 3), dtype=np.int64), r"\(5, 3\)"),
        (np.zeros((0, 4), dtype=np.int64), r"\(0, 4\)"),
        (np.full((5, 4), 67), "code 67"),
        (np.full((5, 4), -1), "code -1"),
        (np.zeros((600, 4), dtype=np.int64), "the model has 512"),
    ],
)
def test_a_clip_that_cannot_be_learnt_is_named(base: BaseModel, codes: Codes, wrong: str) -> None:
    base.layout.check([Example("the good one", "Yes.", 0, np.ones((5, 4), dtype=np.int64))])
    with pytest.raises(LayoutError, match=f"^the bad one: .*{wrong}"):
        base.layout.check([Example("the bad one", "No.", 0, codes)])
