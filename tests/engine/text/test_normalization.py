from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text import has_words, normalize, sentences_end, split_text

CASES = [
    tuple(part.replace("\\n", "\n") for part in line.split("\t"))
    for line in Path(__file__).with_name("normalization_cases.tsv").read_text(encoding="utf-8").splitlines()
    if "\t" in line
]


def test_there_are_cases_of_every_kind() -> None:
    assert len(CASES) >= 300
    assert all(len(case) == 2 for case in CASES)


@pytest.mark.parametrize(("written", "spoken"), CASES)
def test_a_text_is_said_as_people_say_it(written: str, spoken: str) -> None:
    assert normalize(written) == spoken
    assert normalize(spoken) == spoken


# Fragments that rules look for, beside any text at all.
_WRITTEN = (
    r"$ € 5 1/2 3.5 12:30 % . - – Dr. e.g. U.S. SSH km am p.m. * ** _ ` # [a](b) <b> &amp; \ | http://a.b @ II ( ) May"
    " St. é 日 ² ½ 👍 \u0336 x + = / , ' \" … M s No. & 1. 2024"
)
_FRAGMENTS = st.sampled_from([*_WRITTEN.split(), " ", "\n", "- "])
_TEXTS = st.text(max_size=80) | st.lists(_FRAGMENTS, max_size=12).map("".join)


@settings(deadline=None)
@given(_TEXTS)
def test_twice_is_once_and_words_stay_words(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert has_words(once) or not has_words(text)
    assert once == once.strip()


@pytest.mark.parametrize("text", ["👍👍", "***", "---", " \n ", "…", "—", ":)", "```\n```"])
def test_a_text_without_words_becomes_empty(text: str) -> None:
    assert normalize(text) == ""


def test_a_long_text_is_normalised_to_its_end() -> None:
    sentence = "It cost $5 on 3/4/2024, i.e. 10% more. "
    spoken = normalize(sentence)
    assert normalize(sentence * 1000) == " ".join([spoken] * 1000)


@pytest.mark.parametrize(
    "piece", ["[", "![[", "*a_ ", "<a ", "&amp;", "1", "1,", "a.", "(", "a-1", "\\", "\u0301", "://", "1:", "A."]
)
def test_repeated_signs_do_not_stall(piece: str) -> None:
    assert isinstance(normalize(piece * (20_000 // len(piece))), str)


def test_sentences_can_still_be_split() -> None:
    spoken = normalize("Dr. Lee uses SSH. He paid $3.50 at 5 p.m. Then he left the U.S. It was late.")
    assert split_text(spoken, 60) == [
        "Doctor Lee uses S S H.",
        "He paid three dollars and fifty cents at five P M.",
        "Then he left the U S. It was late.",
    ]
    assert spoken[: sentences_end(spoken + " ")] == spoken


@pytest.mark.parametrize("text", ["Use S S H. ", "At five P M. "])
def test_letters_one_by_one_end_a_sentence(text: str) -> None:
    assert sentences_end(text) == len(text) - 1
