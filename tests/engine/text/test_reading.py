"""Texts are read chunk by chunk, with the result of reading them whole, and without reading ahead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Lexicon, NoWords
from engine.text import normalization, normalize, reading, split_text, spoken_chunks, spoken_text

SENTENCE = "Dr. Lee paid $3 million on 5/12/2024, i.e. 10% more. "


def texts(text: str, limit: int = 60, **options: bool) -> list[str]:
    return [chunk.text for chunk in spoken_chunks(text, limit, **options)]


@given(st.text(st.sampled_from("ab c. , \n d?éx1"), min_size=1, max_size=200), st.integers(20, 60))
def test_the_chunks_are_those_of_the_whole_text(text: str, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalization, "WINDOW", 37)
        if text.strip():
            assert texts(text, limit) == split_text(text, limit)


def test_a_normalised_text_has_the_chunks_of_the_whole() -> None:
    assert texts(SENTENCE * 200, 150, normalizes=True) == split_text(" ".join([normalize(SENTENCE)] * 200), 150)


def test_the_first_chunk_costs_the_same_for_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = reading.normalize_window
    monkeypatch.setattr(reading, "normalize_window", lambda text: read.append(text) or original(text))
    costs = []
    for sentences in (100, 10_000):
        read.clear()
        next(spoken_chunks(SENTENCE * sentences, 150, normalizes=True))
        costs.append(sum(map(len, read)))
    assert costs[0] == costs[1] <= normalization.WINDOW


def test_pauses_end_chunks_and_lie_between_them() -> None:
    chunks = list(spoken_chunks("[pause:1s]One. [pause:500ms][pause:.25s] Two three. [pause:20ms]", 60))
    assert [(each.text, each.pause_before, each.pause_after, each.is_last) for each in chunks] == [
        ("One.", 24_000, 18_000, False),
        ("Two three.", 0, 480, True),
    ]


def test_a_pause_after_what_is_not_spoken_belongs_to_the_words_before() -> None:
    chunks = list(spoken_chunks("One. [pause:1s] \U0001f44d [pause:1s] ... ", 60, normalizes=True))
    assert [(each.text, each.pause_after, each.is_last) for each in chunks] == [("One.", 48_000, True)]


def test_a_text_of_pauses_alone_is_silence() -> None:
    (chunk,) = spoken_chunks("[pause:1s] <speak><break time='1s'/></speak>", 60)
    assert (chunk.text, chunk.pause_before, chunk.is_last) == ("", 48_000, True)


@pytest.mark.parametrize("text", ["\U0001f44d **", "***", "<speak></speak>", "<speak> <p/> </speak>"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(NoWords, match="no words"):
        next(spoken_chunks(text, 60, normalizes=True))


def test_signs_alone_are_spoken_as_they_are_without_normalisation() -> None:
    assert texts("**") == ["**"]


def test_the_lexicon_comes_before_normalisation_and_leaves_what_ssml_fixes() -> None:
    text = "<speak>SQL for $5: <sub alias='my SQL'>x</sub> <say-as interpret-as='characters'>SQL</say-as></speak>"
    assert spoken_text(text, normalizes=True, lexicon=Lexicon({"sql": "sequel", "$5": "a fiver"})) == (
        "sequel for a fiver: my S Q L S Q L"
    )


@pytest.mark.parametrize("written", ["$3 million", "May 5", "Dr. Lee", "Henry VIII", "5 km", "No. 7"])
def test_a_window_does_not_part_what_is_said_together(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "WINDOW", 60)
    text = f"one {written} two and so on "
    for shift in range(40):
        whole = "a " * shift + text * 4
        assert spoken_text(whole, normalizes=True).count(normalize(written)) == 4, whole
