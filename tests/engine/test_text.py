from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import max_frames_for, sentences_end, split_text


@given(st.text(max_size=600), st.integers(20, 200))
def test_chunks_are_short_and_none_is_empty(text: str, limit: int) -> None:
    chunks = split_text(text, limit)
    assert all(0 < len(chunk) <= limit for chunk in chunks)
    said = "".join(character for character in text if character.isalnum())
    assert "".join(character for chunk in chunks for character in chunk if character.isalnum()) == said
    assert bool(chunks) == bool(text.strip())


@pytest.mark.parametrize(
    ("text", "limit", "chunks"),
    [
        ("One.", 20, ["One."]),
        ("  Spaces \n are\tfolded.  ", 40, ["Spaces are folded."]),
        ("The first one. The second one.", 20, ["The first one.", "The second one."]),
        ("Is it? It is! Good then.", 20, ["Is it? It is!", "Good then."]),
        ("Without an end, but with a clause here", 30, ["Without an end,", "but with a clause here"]),
        ("no breaks but between these words", 20, ["no breaks but", "between these words"]),
        ("a" * 45, 20, ["a" * 20, "a" * 20, "a" * 5]),
        ("Then Dr. Smith came in. He sat.", 25, ["Then Dr. Smith came in.", "He sat."]),
        ("We met J. R. Tolkien. He wrote.", 24, ["We met J. R. Tolkien.", "He wrote."]),
        ("It costs 3.50 today. Not more.", 22, ["It costs 3.50 today.", "Not more."]),
        ("“Go on!” she said. He went.", 20, ["“Go on!” she said.", "He went."]),
        ("これは最初の文です。これは二番目の文です。", 20, ["これは最初の文です。", "これは二番目の文です。"]),
        ("Well … then. Yes.", 14, ["Well … then.", "Yes."]),
        ("???", 20, ["???"]),
        ("Really. !!! Truly so, they say.", 20, ["Really. !!!", "Truly so, they say."]),
    ],
)
def test_where_a_text_is_cut(text: str, limit: int, chunks: list[str]) -> None:
    assert split_text(text, limit) == chunks


def test_a_bound_is_generous_and_still_a_bound() -> None:
    for text, slow_seconds in (("Hello there.", 1.5), ("In 1999 it cost $1,234.56!", 7.0), ("こんにちは世界", 2.0)):
        assert slow_seconds < max_frames_for(text) * 0.08 < 5 * slow_seconds + 2


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_more_text_never_has_less_time(one: str, other: str) -> None:
    assert max_frames_for(one + other) >= max(max_frames_for(one), max_frames_for(other)) > 0


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("", ""),
        ("Hello there", ""),
        ("Hello there.", ""),  # it may go on: "there.com"
        ("Hello there. ", "Hello there."),
        ("It costs 3.", ""),
        ("Dr. Smith ", ""),
        ("So he left. Then Dr. Smi", "So he left."),
        ("Is it? It is! And", "Is it? It is!"),
        ("你好。今", "你好。"),
    ],
)
def test_only_what_has_surely_ended_is_a_sentence(text: str, ended: str) -> None:
    assert text[: sentences_end(text)] == ended


@given(st.text(alphabet="ab. !?3", max_size=60), st.integers(0, 60))
def test_what_has_ended_stays_ended_whatever_follows(text: str, cut: int) -> None:
    early = sentences_end(text[:cut])
    assert early == 0 or text[early].isspace()
    assert sentences_end(text) >= early
