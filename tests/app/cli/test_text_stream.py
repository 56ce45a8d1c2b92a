from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.exit_status import CommandFailed
from app.cli.text_stream import MAX_CHARACTERS, read_text, utterances

TEXT = "It was 3.5 km. Was it? Dr. Who said so!\n\nA new paragraph without a mark\n\nand the end"


def test_a_sentence_is_yielded_before_the_next_is_complete() -> None:
    spoken: list[str] = []

    def writing() -> Iterator[str]:
        yield from ("Hel", "lo the", "re.")
        assert spoken == []  # it might be 'there.com'
        yield " How"
        assert spoken == ["Hello there."]
        yield " are you? I "
        assert spoken == ["Hello there.", "How are you?"]
        yield "am"

    for utterance in utterances(writing()):
        spoken.append(utterance)  # noqa: PERF402  # checked during the iteration
    assert spoken == ["Hello there.", "How are you?", "I am"]


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_every_word_is_yielded_once_for_any_chunks(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(TEXT)]
    chunks = [TEXT[start:end] for start, end in pairwise(at)]
    assert " ".join(utterances(chunks)).split() == TEXT.split()


@given(st.text(st.sampled_from("ab ,.\n"), max_size=900), st.integers(1, 400))
def test_no_letter_is_lost_for_any_chunks(text: str, size: int) -> None:
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    spoken = list(utterances(chunks))
    assert [each for each in "".join(spoken) if each.isalnum()] == [each for each in text if each.isalnum()]
    assert all(len(each) <= MAX_CHARACTERS and any(map(str.isalnum, each)) for each in spoken)


def test_text_without_sentence_ends_is_split() -> None:
    waiting = 0
    for utterance in utterances("word " for _ in range(1000)):
        waiting += 1
        assert len(utterance) <= 300
    assert waiting > 10


def test_a_paragraph_ends_an_utterance_and_a_line_break_does_not() -> None:
    chunks = ["A title\r\n", "\r\nwhich goes on\nand on\n"]
    assert list(utterances(chunks)) == ["A title", "which goes on and on"]


def test_typed_lines_end_an_utterance() -> None:
    assert list(utterances(["hello\n", "and by", "e\n"], lines=True)) == ["hello", "and bye"]


@pytest.mark.parametrize("nothing", ["", " \n\n ", "... ", "!\n\n?"])
def test_text_without_letters_is_skipped(nothing: str) -> None:
    assert list(utterances([nothing])) == []


def test_text_is_read_as_it_arrives_without_splitting_characters() -> None:
    reader, writer = os.pipe()
    try:
        chunks = read_text(reader)
        os.write(writer, b"\xef\xbb\xbfgr\xc3")
        assert next(chunks) == "gr"
        os.write(writer, b"\xbcn")
        assert next(chunks) == "ün"
    finally:
        os.close(writer)
        assert list(chunks) == []
        os.close(reader)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"half \xc3"])
def test_text_that_is_not_utf_8_is_reported(data: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with os.fdopen(reader, "rb") as reading, pytest.raises(CommandFailed, match="UTF-8"):
        list(read_text(reading.fileno()))


def test_an_element_of_ssml_is_one_utterance() -> None:
    element = "<speak>One. <break time='1s'/>\n\nTwo.</speak>"
    assert list(utterances(["Before. ", *element, " After"])) == ["Before.", element, "After"]
