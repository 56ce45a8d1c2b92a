from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import context
from engine.context import Context, TextChunk, fixed_chunk, plan_chunks
from engine.errors import PromptTooLong
from engine.text import max_frames_for, spoken_chunks

EOS_FRAME = np.zeros((1, 2), np.int64)


def tokenize(text: str, part: int = 0) -> list[int]:
    return [0, *map(ord, text), 1]


def positions(spans: list[Any]) -> int:
    return sum(map(len, spans))


@given(st.data())
def test_chunks_fit_the_context_and_follow_each_other(data: st.DataObject) -> None:
    limit, voice_length = 300, data.draw(st.integers(0, 100))
    context = Context(limit, voice_length, EOS_FRAME)
    occupied = voice_length
    for number in range(data.draw(st.integers(1, 12))):
        tokens = [number] * data.draw(st.integers(2, 40))
        chunk = TextChunk("", tokens, max_frames=data.draw(st.integers(1, 100)))
        prefill = context.begin_chunk(chunk)
        assert prefill.start in (occupied, voice_length)  # after the earlier segments, or reset to the voice
        assert prefill.spans[-1] == tokens[:-1]
        assert context.position == prefill.start + positions(prefill.spans)
        assert context.position + 1 + chunk.max_frames <= limit
        frames = data.draw(st.integers(0, chunk.max_frames))
        fed = frames if frames < chunk.max_frames else frames - 1
        context.finish_chunk(np.full((frames, 2), number), fed)
        occupied = context.position
        assert occupied <= limit


def test_a_full_context_keeps_the_newest_whole_segments_in_order() -> None:
    context = Context(100, 10, EOS_FRAME)
    for number in (1, 2, 3):
        context.begin_chunk(TextChunk("", [number] * 5, max_frames=10))
        context.finish_chunk(np.full((10, 2), number), fed=10)
    assert context.position == 10 + 3 * 15 + 2
    prefill = context.begin_chunk(TextChunk("", [4] * 5, max_frames=40))
    assert prefill.start == 10
    assert [int(np.ravel(span)[0]) for span in prefill.spans] == [3, 3, 0, 4]
    assert [len(span) for span in prefill.spans] == [5, 10, 1, 4]


def test_chunks_get_shorter_where_space_requires_it() -> None:
    text = "Words, and more words, and then some. " * 20
    free = 120
    chunks = list(plan_chunks(spoken_chunks(text, 1000), free, tokenize))
    assert all(len(chunk.tokens) + chunk.max_frames <= free for chunk in chunks)
    assert " ".join(chunk.text for chunk in chunks).split() == text.split()
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_a_pause_stays_between_its_chunks_when_they_get_shorter() -> None:
    words = "Words, and more words, and then some."
    chunks = list(plan_chunks(spoken_chunks(f"[pause:1s]{words}[pause:2s]{words}", 1000), 70, tokenize))
    assert len(chunks) > 2
    assert [chunk.pause_before for chunk in chunks] == [24_000] + [0] * (len(chunks) - 1)
    assert [chunk.pause_after for chunk in chunks if chunk.pause_after] == [48_000]
    assert next(chunk for chunk in chunks if chunk.pause_after).text.endswith("some.")


def test_a_text_that_cannot_fit_is_rejected_before_it_begins() -> None:
    with pytest.raises(PromptTooLong, match="shorter recording"):
        plan_chunks(spoken_chunks("Oh. [pause:1s] Anything at all, really.", 150), 30, tokenize)
    with pytest.raises(PromptTooLong, match="positions"):
        fixed_chunk("Fixed.", 100, tokenize, 99)


def test_only_the_chunks_that_are_asked_for_are_planned() -> None:
    encoded: list[str] = []

    def recording(text: str, part: int) -> list[int]:
        encoded.append(text)
        return tokenize(text)

    planned = plan_chunks(spoken_chunks("A sentence of words. " * 1000, 150), 1000, recording)
    first = next(planned)
    assert encoded == [first.text]


@given(st.text(min_size=1, max_size=20))
def test_any_short_text_fits_where_later_chunks_are_not_checked(text: str) -> None:
    assert 4 * len(text) + 8 + max_frames_for(text) <= context._ALWAYS_ENOUGH


def test_the_frame_limit_of_a_chunk_is_that_of_its_text() -> None:
    (chunk,) = plan_chunks(spoken_chunks("Hello there.", 150), 1000, tokenize)
    assert chunk.max_frames == max_frames_for("Hello there.")
