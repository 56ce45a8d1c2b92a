from __future__ import annotations

from app.audio.timeline import ChunkMark, ScriptTurn, WordMark
from app.responses.dialogue_alignment import DialogueAlignment

SCRIPT = [ScriptTurn("a", "One two."), ScriptTurn("b", "No!"), ScriptTurn("a", "Yes.")]
TEXT = "\n".join(turn.text for turn in SCRIPT)


def mark(turn: int, begin: float, end: float, *words: str) -> ChunkMark:
    """A text chunk of some words of equal length, one after another."""
    step = (end - begin) / len(words)
    times = [(begin + index * step, begin + (index + 1) * step) for index in range(len(words))]
    marks = [
        WordMark(word, TEXT.index(word), TEXT.index(word) + len(word), word, *place, False)
        for word, place in zip(words, times, strict=True)
    ]
    spoken = tuple((word, *place) for word, place in zip(words, times, strict=True))
    return ChunkMark(tuple(marks), spoken, begin, end, turn, SCRIPT[turn].voice_id)


def test_turns_that_overlap_have_times_that_do() -> None:
    alignment = DialogueAlignment(SCRIPT)
    aligned = alignment.nothing()
    for each in (
        mark(0, 0.0, 1.0, "One"),
        mark(0, 1.0, 2.0, "two."),
        mark(1, 0.5, 1.1, "No!"),
        mark(2, 3.0, 4.0, "Yes."),
    ):
        aligned.extend(alignment.push(each))
    aligned.extend(alignment.rest())
    assert "".join(aligned.written.characters) == "One two.No!Yes."
    assert aligned.written.begins[8] == 0.5
    assert aligned.written.ends[7] == 2.0
    assert aligned.said.begins[8] == 0.5
    assert aligned.segments is not None
    assert [(each.turn, each.first, each.after, each.begin, each.end) for each in aligned.segments] == [
        (0, 0, 8, 0.0, 2.0),
        (1, 8, 11, 0.5, 1.1),
        (2, 11, 15, 3.0, 4.0),
    ]


def test_turns_of_which_nothing_is_heard_have_no_duration() -> None:
    alignment = DialogueAlignment(SCRIPT)
    aligned = alignment.push(mark(0, 0.0, 1.0, "One"))
    aligned.extend(alignment.rest())
    assert "".join(aligned.written.characters) == "One two.No!Yes."
    assert aligned.segments is not None
    assert [(each.turn, each.begin, each.end) for each in aligned.segments] == [(0, 0, 1), (1, 1, 1), (2, 1, 1)]
    assert aligned.written.begins[3:] == [1.0] * 12
