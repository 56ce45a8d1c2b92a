"""What csm-mini reads, and what it is asked afterwards."""

from __future__ import annotations

from itertools import islice

import pytest

from models.csm_mini_recipe.asr_check import word_errors
from models.csm_mini_recipe.texts import CHOICE, OPEN, sentences


def test_sentences_are_the_same_for_a_seed_and_never_those_that_are_kept_back() -> None:
    pytest.importorskip("pocketsphinx")
    some = list(islice(sentences(3), 60))
    assert some == list(islice(sentences(3), 60))
    assert some != list(islice(sentences(4), 60))
    plain = {text.lower().rstrip(".?!") for text in some}
    assert plain.isdisjoint({*CHOICE, *OPEN})
    assert len(set(CHOICE) | set(OPEN)) == 40


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "a c", 1), ("a b c", "a b b c", 1), ("a b", "", 2)],
)
def test_word_errors(said: str, heard: str, errors: int) -> None:
    assert word_errors(said, heard) == errors
