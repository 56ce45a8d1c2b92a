"""Sentence sampling and word error counting."""

from __future__ import annotations

from itertools import islice

import pytest

from models.csm_mini_recipe.asr_check import word_errors
from models.csm_mini_recipe.texts import CLOSED_SET, OPEN_SET, sentences


def test_sentences_are_deterministic_and_exclude_the_evaluation_sets() -> None:
    pytest.importorskip("pocketsphinx")
    sample = list(islice(sentences(3), 60))
    assert sample == list(islice(sentences(3), 60))
    assert sample != list(islice(sentences(4), 60))
    plain = {text.lower().rstrip(".?!") for text in sample}
    assert plain.isdisjoint({*CLOSED_SET, *OPEN_SET})
    assert len(set(CLOSED_SET) | set(OPEN_SET)) == 40


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "a c", 1), ("a b c", "a b b c", 1), ("a b", "", 2)],
)
def test_word_errors(reference: str, hypothesis: str, errors: int) -> None:
    assert word_errors(reference, hypothesis) == errors
