"""Training sequences have the same layout as the engine's prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.context import Context, TextChunk
from engine.model.config import read_config
from engine.model.tokenizer import TextTokenizer
from engine.types import Codes
from training.base_checkpoint import BaseCheckpoint
from training.batches import collate
from training.errors import LayoutError
from training.example import Example
from training.sequence import Sequence

from .batch_contents import Position, positions_of


def test_layout_equals_the_engines_for_voice_history_and_text(
    base: BaseCheckpoint, base_directory: Path, examples: list[Example]
) -> None:
    voice, history, target = examples[3], examples[1], examples[2]
    tokenizer = TextTokenizer(base_directory / "tokenizer.json")
    config = read_config(base_directory / "config.json")
    silence = np.full((1, config.codebooks), config.stop_code)
    context = Context(config.positions, 0, silence)
    for segment in (voice, history):
        context.add_segment(tokenizer.encode(segment.text, segment.speaker), segment.codes)
    chunk = TextChunk(target.text, tokenizer.encode(target.text, target.speaker), max_frames=100)
    expected: list[Position] = []
    for span in context.begin_chunk(chunk).spans:
        expected += span if isinstance(span, list) else map(tuple, span.tolist())
    expected.append(chunk.tokens[-1])  # the first step's own input
    context.finish_chunk(target.codes, fed=len(target.codes))
    expected += map(tuple, np.concatenate([target.codes, silence]).tolist())

    sequence = Sequence((voice, history, target), prompt_segments=2)
    actual = positions_of(collate([sequence], base.layout, 1.0, np.random.default_rng(0)))
    assert actual == expected
    assert base.layout.sequence_length(sequence) == len(expected) == context.position + 1


def test_white_space_is_normalized_as_in_the_engine(base: BaseCheckpoint, examples: list[Example]) -> None:
    spread = replace(examples[0], text=f"  {examples[0].text}\n".replace(" ", " \t "))
    np.testing.assert_array_equal(base.layout.tokens(spread), base.layout.tokens(examples[0]))


def test_at_least_one_segment_must_be_a_target(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match="prompt_segments is 2 of 2"):
        Sequence(tuple(examples[:2]), prompt_segments=2)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((5, 3), dtype=np.int64), r"\(5, 3\)"),
        (np.zeros((0, 4), dtype=np.int64), r"\(0, 4\)"),
        (np.full((5, 4), 67), "code 67"),
        (np.full((5, 4), -1), "code -1"),
        (np.zeros((600, 4), dtype=np.int64), "the model has 512"),
    ],
)
def test_invalid_clips_are_named(base: BaseCheckpoint, codes: Codes, message: str) -> None:
    base.layout.check([Example("the good one", "Yes.", 0, np.ones((5, 4), dtype=np.int64))])
    with pytest.raises(LayoutError, match=f"^the bad one: .*{message}"):
        base.layout.check([Example("the bad one", "No.", 0, codes)])
