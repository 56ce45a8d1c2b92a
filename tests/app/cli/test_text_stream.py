from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.exit_status import CommandFailed
from app.cli.text_stream import LONGEST, read_pieces, utterances

TEXT = "It was 3.5 km. Was it? Dr. Who said so!\n\nA new paragraph without a mark\n\nand the end"


def test_a_sentence_is_said_before_the_next_is_written() -> None:
    said: list[str] = []

    def writing() -> Iterator[str]:
        yield from ("Hel", "lo the", "re.")
        assert said == []  # it might be 'there.com'
        yield " How"
        assert said == ["Hello there."]
        yield " are you? I "
        assert said == ["Hello there.", "How are you?"]
        yield "am"

    for utterance in utterances(writing()):
        said.append(utterance)  # noqa: PERF402  # what was said is looked at in between
    assert said == ["Hello there.", "How are you?", "I am"]


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_however_it_is_cut_every_word_is_said_once(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in pairwise(at)]
    assert " ".join(utterances(pieces)).split() == TEXT.split()


@given(st.text(st.sampled_from("ab ,.\n"), max_size=900), st.integers(1, 400))
def test_no_letter_is_lost(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    said = list(utterances(pieces))
    assert [each for each in "".join(said) if each.isalnum()] == [each for each in text if each.isalnum()]
    assert all(len(each) <= LONGEST and any(map(str.isalnum, each)) for each in said)


def test_text_without_an_end_is_said_in_parts() -> None:
    waiting = 0
    for utterance in utterances("word " for _ in range(1000)):
        waiting += 1
        assert len(utterance) <= 300
    assert waiting > 10


def test_a_paragraph_is_an_end_and_a_broken_line_is_none() -> None:
    pieces = ["A title\r\n", "\r\nwhich goes on\nand on\n"]
    assert list(utterances(pieces)) == ["A title", "which goes on and on"]


def test_who_types_ends_with_the_line() -> None:
    assert list(utterances(["hello\n", "and by", "e\n"], lines=True)) == ["hello", "and bye"]


@pytest.mark.parametrize("nothing", ["", " \n\n ", "... ", "!\n\n?"])
def test_what_cannot_be_said_is_not(nothing: str) -> None:
    assert list(utterances([nothing])) == []


def test_stdin_comes_as_it_is_written_and_no_letter_is_cut() -> None:
    reader, writer = os.pipe()
    try:
        pieces = read_pieces(reader)
        os.write(writer, b"\xef\xbb\xbfgr\xc3")
        assert next(pieces) == "gr"
        os.write(writer, b"\xbcn")
        assert next(pieces) == "ün"
    finally:
        os.close(writer)
        assert list(pieces) == []
        os.close(reader)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"half \xc3"])
def test_what_is_not_utf_8_is_told(data: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with os.fdopen(reader, "rb") as reading, pytest.raises(CommandFailed, match="UTF-8"):
        list(read_pieces(reading.fileno()))
