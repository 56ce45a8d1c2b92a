"""Which characters of the text each spoken word stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Lexicon
from engine.errors import NoWords
from engine.text import spoken_chunks


def located(text: str, limit: int = 1000, **options: object) -> list[tuple[str, str]]:
    """Each spoken word, and what it stands for in the text."""
    chunks = spoken_chunks(text, limit, locates_words=True, **options)  # type: ignore[arg-type]
    return [(word.text, text[word.text_begin : word.text_end]) for chunk in chunks for word in chunk.words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, *big*  world!", "Hello,=Hello, big=*big* world!=world!"),
        ("He owes Dr. Lee $20 now.", "He=He owes=owes Doctor=Dr. Lee=Lee twenty=$20 dollars=$20 now.=now."),
        ("It was $5. Dr. Lee", "It=It was=was five=$5. Dr. dollars.=$5. Dr. Doctor=$5. Dr. Lee=Lee"),  # not told apart
        ("One [pause:1s] two \N{OWL} three", "One=One two=two three=three"),
        ("Tom &amp; Jerry", "Tom=Tom and=&amp; Jerry=Jerry"),
        (
            "a <speak>b &amp; b <s>\N{LATIN SMALL LETTER E WITH ACUTE} c</s></speak> d",
            "a=a b=b and=&amp; b.=b é=é c.=c d=d",
        ),
        ("<speak><sub alias='World > Wide'>WW</sub> is <!-- no --> it</speak>", "World=WW Wide=WW is=is it=it"),
        ("<?xml version='1.0'?><speak>x<break time='1s'/>[pause:1s] y</speak>", "x=x y=y"),
        ("<speak><![CDATA[one]]> two</speak>", "one=<![CDATA[one]]> two=two"),
    ],
)
def test_each_word_stands_for_what_was_written(text: str, words: str) -> None:
    found = located(text, normalizes=True)
    if "CDATA" in text:  # not divided: the words stand for all of the characters between two tags
        assert [said for said, _ in found] == ["one", "two"]
        assert all("one" in written and "two" in written for _, written in found)
    else:
        assert " ".join(f"{said}={written}" for said, written in found) == words


def test_a_replaced_word_keeps_its_place() -> None:
    words = located("I use SQL daily.", lexicon=Lexicon({"SQL": "sequel query"}))
    assert words == [("I", "I"), ("use", "use"), ("sequel", "SQL"), ("query", "SQL"), ("daily.", "daily.")]


def test_places_go_on_through_chunks_and_windows() -> None:
    text = "This sentence costs $5 in all. " * 100
    found = located(text, 40, normalizes=True)
    assert len(found) == 700
    assert found[:7] == found[-7:]
    positions = [
        word.text_begin
        for chunk in spoken_chunks(text, 40, normalizes=True, locates_words=True)
        for word in chunk.words
    ]
    assert positions == sorted(positions)
    assert positions[-1] == len(text) - len("all. ")


@given(st.text("ab1$.,*_ \n<>&[]-é😀", max_size=80), st.booleans(), st.integers(5, 40))
def test_any_text_is_said_the_same_and_every_place_is_in_it(text: str, normalizes: bool, limit: int) -> None:
    try:
        plain = list(spoken_chunks(text, limit, normalizes=normalizes))
    except NoWords:
        return
    chunks = list(spoken_chunks(text, limit, normalizes=normalizes, locates_words=True))
    assert [each.text for each in chunks] == [each.text for each in plain]
    for chunk in chunks:
        said = [token for token in chunk.text.split() if any(map(str.isalnum, token))]
        assert [word.text for word in chunk.words] == said
        assert all(0 <= word.text_begin <= word.text_end <= len(text) for word in chunk.words)
        if not normalizes:
            assert [text[word.text_begin : word.text_end] for word in chunk.words] == said
