from __future__ import annotations

import pytest

from engine.text import normalize, sentences_end, speakable_end, split_written


def spoken_so_far(text: str) -> str:
    return text[: sentences_end(text)]


def test_an_element_is_spoken_once_it_is_closed() -> None:
    assert spoken_so_far("One. <speak>Two. Thr") == "One."
    assert spoken_so_far("One. <speak>Two. Three.</speak>") == "One. <speak>Two. Three.</speak>"
    assert spoken_so_far("<speak>One.</speak> Two. Thr") == "<speak>One.</speak> Two."
    assert speakable_end("<speak>" + "word " * 100, 40) == 0
    assert speakable_end("and so " + "on <speak>" + "word " * 100, 40) == len("and so on ")


@pytest.mark.parametrize("written", ["$3 million", "5 km", "May 5", "Dr. Lee", "Henry VIII", "3 1/2 cups"])
def test_a_long_text_is_not_cut_inside_what_is_said_together(written: str) -> None:
    for shift in range(100):
        text = "x" * shift + f" and they paid {written} for all of it, as far as we know, but nobody ever said why so"
        end = speakable_end(text, 40)
        assert end or len(text) <= 80
        parts = [normalize(text[:end]), normalize(text[end:])]
        assert sum(part.count(normalize(written)) for part in parts) == 1, (text[:end], text[end:])


def test_written_texts_are_split_between_sentences_and_elements_stay_whole() -> None:
    element = "<speak>One. Two. Three. Four.</speak>"
    assert split_written(f"A sentence.\nAnother one. {element} More.", 14) == [
        "A sentence.",
        "Another one.",
        element,
        "More.",
    ]
