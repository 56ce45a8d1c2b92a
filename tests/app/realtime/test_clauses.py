from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.realtime.clauses import ClauseSplitter


def split(text: str, limit: int = 150) -> list[str]:
    splitter = ClauseSplitter(limit)
    clauses = [clause for character in text for clause in splitter.push(character)]
    return [*clauses, splitter.flush()]


@given(st.text(alphabet="ab ,.!?;—\n3x…", max_size=200), st.integers(20, 60))
def test_the_clauses_joined_are_the_text_and_none_exceeds_the_limit(text: str, limit: int) -> None:
    clauses = split(text, limit)
    assert "".join(clauses) == text
    assert all(len(clause) <= limit for clause in clauses)


@given(st.text(alphabet="ab ,.!?\n", max_size=80), st.integers(1, 10))
def test_pieces_give_the_same_clauses_as_single_characters(text: str, size: int) -> None:
    splitter = ClauseSplitter(40)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    clauses = [clause for piece in pieces for clause in splitter.push(piece)]
    assert [*clauses, splitter.flush()] == split(text, 40)


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("Well, hello there, how are you today? Fine.", ["Well, hello there,", " how are you today?", " Fine."]),
        ("It costs 3,500 dollars, or 3.5 thousand. Right", ["It costs 3,500 dollars,", " or 3.5 thousand.", " Right"]),
        ("Dr. Smith is in. Come.", ["Dr. Smith is in.", " Come."]),
        ("Yes. Sure. Maybe.", ["Yes.", " Sure.", " Maybe."]),
    ],
)
def test_the_first_clause_is_short_and_later_ones_are_sentences(text: str, clauses: list[str]) -> None:
    assert split(text) == clauses


def test_a_later_clause_is_not_cut_at_its_first_comma() -> None:
    assert split("Good morning. Yes, and then, I think. ")[1] == " Yes, and then, I think."
