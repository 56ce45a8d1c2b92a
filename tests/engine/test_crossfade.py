"""The streaming crossfader against a simple reference, for any slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import AudioChunk, SpeechRequest
from engine.crossfade import Crossfader
from engine.types import SAMPLE_RATE, Samples

MILLISECOND = SAMPLE_RATE // 1000


def request(**values: object) -> SpeechRequest:
    return SpeechRequest(text="hello", **values)  # type: ignore[arg-type]


def slices(text_chunks: list[list[Samples]]) -> Iterator[AudioChunk]:
    """Every piece of every text chunk, as an engine puts it."""
    last = len(text_chunks) - 1
    for index, pieces in enumerate(text_chunks):
        for place, piece in enumerate(pieces):
            ends_chunk = place == len(pieces) - 1
            yield AudioChunk(
                samples=piece,
                codes=np.full((1, 2), 100 * index + place),
                text_chunk=index,
                in_last_text_chunk=index == last,
                ends_text_chunk=ends_chunk,
                ends_speech=ends_chunk and index == last,
            )


def joined(text_chunks: list[list[Samples]], settings: SpeechRequest) -> list[AudioChunk]:
    crossfader = Crossfader(settings)
    return [out for chunk in slices(text_chunks) if (out := crossfader.push(chunk)) is not None]


def whole(chunks: list[AudioChunk]) -> Samples:
    return np.concatenate([chunk.samples for chunk in chunks])


def tone(size: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)


def cut(samples: Samples, places: list[int]) -> list[Samples]:
    return list(np.split(samples, sorted(place % (samples.size + 1) for place in places)))


text_chunks = st.lists(
    st.tuples(st.integers(0, 4000), st.lists(st.integers(0, 4000), max_size=4), st.integers(0, 9)),
    min_size=1,
    max_size=4,
).map(lambda drawn: [cut(tone(size, seed), places) for size, places, seed in drawn])
requests = st.builds(
    request,
    overlap=st.sampled_from(["full", "zero"]),
    crossfade_milliseconds=st.integers(0, 60),
    trim_start_milliseconds=st.integers(0, 120),
    trim_end_milliseconds=st.integers(0, 120),
)


@given(text_chunks, requests)
def test_slicing_does_not_change_the_output(chunks: list[list[Samples]], settings: SpeechRequest) -> None:
    in_one_piece = [[np.concatenate(pieces)] for pieces in chunks]
    np.testing.assert_array_equal(whole(joined(chunks, settings)), whole(joined(in_one_piece, settings)))


@given(text_chunks, requests)
def test_only_the_last_chunk_ends_the_speech(chunks: list[list[Samples]], settings: SpeechRequest) -> None:
    assert [chunk.ends_speech for chunk in joined(chunks, settings)][:-1].count(True) == 0
    assert joined(chunks, settings)[-1].ends_speech


@given(text_chunks, requests)
def test_every_code_is_emitted_once_and_in_order(chunks: list[list[Samples]], settings: SpeechRequest) -> None:
    expected = np.concatenate([chunk.codes for chunk in slices(chunks)])
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in joined(chunks, settings)]), expected)


@given(text_chunks, st.integers(0, 120), st.integers(0, 120))
def test_without_crossfade_only_the_trims_are_removed(chunks: list[list[Samples]], start: int, end: int) -> None:
    spoken = np.concatenate([piece for pieces in chunks for piece in pieces])
    settings = request(
        overlap="zero", crossfade_milliseconds=30, trim_start_milliseconds=start, trim_end_milliseconds=end
    )
    first, end_index = start * MILLISECOND, spoken.size - end * MILLISECOND
    np.testing.assert_array_equal(whole(joined(chunks, settings)), spoken[first : max(end_index, first)])


@given(text_chunks, requests)
def test_crossfades_do_not_increase_loudness(chunks: list[list[Samples]], settings: SpeechRequest) -> None:
    ones = [[np.ones_like(piece) for piece in pieces] for pieces in chunks]
    assert np.abs(whole(joined(ones, settings)) - 1).max(initial=0) < 1e-6


@given(st.lists(st.integers(1000, 4000), min_size=2, max_size=4), st.integers(1, 40))
def test_each_join_shortens_the_audio_by_the_crossfade(sizes: list[int], milliseconds: int) -> None:
    chunks = [[tone(size, seed)] for seed, size in enumerate(sizes)]
    result = whole(joined(chunks, request(crossfade_milliseconds=milliseconds)))
    assert result.size == sum(sizes) - (len(sizes) - 1) * milliseconds * MILLISECOND


def test_a_crossfade_is_linear() -> None:
    chunks = [[np.zeros(2400, np.float32)], [np.ones(2400, np.float32)]]
    result = whole(joined(chunks, request(crossfade_milliseconds=50)))
    steps = np.diff(result[1200:2400])
    np.testing.assert_allclose(steps, 1 / 1200, atol=1e-6)
    assert not result[:1200].any()
    assert (result[2400:] == 1).all()


def test_nothing_of_the_last_text_chunk_is_held_back() -> None:
    crossfader = Crossfader(request(crossfade_milliseconds=500))
    chunk = AudioChunk(tone(100), np.zeros((1, 0), np.int64), in_last_text_chunk=True)
    emitted = crossfader.push(chunk)
    assert emitted is not None
    np.testing.assert_array_equal(emitted.samples, chunk.samples)


@pytest.mark.parametrize("milliseconds", [1, 30, 500])
def test_only_the_crossfade_is_held_back(milliseconds: int) -> None:
    crossfader = Crossfader(request(crossfade_milliseconds=milliseconds))
    chunk = AudioChunk(tone(24_000), np.zeros((1, 0), np.int64))
    emitted = crossfader.push(chunk)
    assert emitted is not None
    assert emitted.samples.size == 24_000 - milliseconds * MILLISECOND


def test_trims_longer_than_the_speech_leave_an_empty_last_chunk() -> None:
    chunks = joined([[tone(2400)]], request(trim_start_milliseconds=60, trim_end_milliseconds=60))
    assert [(chunk.samples.size, chunk.ends_speech) for chunk in chunks] == [(0, True)]


@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 900)), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_a_pause_is_exact_silence_and_its_join_is_not_crossfaded(
    lead: int, plan: list[tuple[int, int]], fade: int, start: int, end: int
) -> None:
    """Every run of text chunks without a pause between them is joined as a speech of its own."""
    settings = request(crossfade_milliseconds=fade, trim_start_milliseconds=start, trim_end_milliseconds=end)
    rng = np.random.default_rng(lead)
    chunks = [[rng.uniform(0.1, 1, 1000).astype(np.float32) for _ in range(count)] for count, _ in plan]
    pauses = [pause for _, pause in plan]
    crossfader = Crossfader(settings)
    got = []
    for piece in slices(chunks):
        first = piece.text_chunk == 0 and not got
        pushed = crossfader.push(
            replace(
                piece,
                pause_before=100 * lead if first and piece.codes[0, 0] == 0 else 0,
                pause_after=pauses[piece.text_chunk] if piece.ends_text_chunk else 0,
            )
        )
        got += [] if pushed is None else [pushed.samples]
    expected = [np.zeros(100 * lead, np.float32)]
    run: list[list[Samples]] = []
    runs = []
    for chunk, pause in zip(chunks, pauses, strict=True):
        run.append(chunk)
        if pause:
            runs.append((run, pause))
            run = []
    if run:
        runs.append((run, 0))
    for place, (each, pause) in enumerate(runs):
        part = replace(
            settings,
            trim_start_milliseconds=start if place == 0 else 0,
            trim_end_milliseconds=end if place == len(runs) - 1 else 0,
        )
        expected += [piece.samples for piece in joined(each, part)]
        expected.append(np.zeros(pause, np.float32))
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(expected))
