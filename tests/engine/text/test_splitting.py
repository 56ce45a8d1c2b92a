from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import max_frames_for, sentences_end, split_text


@given(st.text(max_size=600), st.integers(20, 200))
def test_chunks_are_within_the_limit_and_not_empty(text: str, limit: int) -> None:
    chunks = split_text(text, limit)
    assert all(0 < len(chunk) <= limit for chunk in chunks)
    spoken = "".join(character for character in text if character.isalnum())
    assert "".join(character for chunk in chunks for character in chunk if character.isalnum()) == spoken
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
def test_split_positions(text: str, limit: int, chunks: list[str]) -> None:
    assert split_text(text, limit) == chunks


def test_the_frame_limit_is_generous_but_finite() -> None:
    for text, slow_seconds in (("Hello there.", 1.5), ("In 1999 it cost $1,234.56!", 7.0), ("こんにちは世界", 2.0)):
        assert slow_seconds < max_frames_for(text) * 0.08 < 5 * slow_seconds + 2


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_more_text_never_has_a_lower_frame_limit(one: str, other: str) -> None:
    assert max_frames_for(one + other) >= max(max_frames_for(one), max_frames_for(other)) > 0


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("", ""),
        ("Hello there", ""),
        ("Hello there.", ""),  # may continue as "there.com"
        ("Hello there. ", "Hello there."),
        ("It costs 3.", ""),
        ("Dr. Smith ", ""),
        ("So he left. Then Dr. Smi", "So he left."),
        ("Is it? It is! And", "Is it? It is!"),
        ("你好。今", "你好。"),
    ],
)
def test_only_complete_sentences_count(text: str, ended: str) -> None:
    assert text[: sentences_end(text)] == ended


@given(st.text(alphabet="ab. !?3", max_size=60), st.integers(0, 60))
def test_a_complete_sentence_stays_complete_when_text_follows(text: str, cut: int) -> None:
    early = sentences_end(text[:cut])
    assert early == 0 or text[early].isspace()
    assert sentences_end(text) >= early
