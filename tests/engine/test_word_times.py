"""When words are said: exact where the engine counts, estimated elsewhere, and mapped through every change of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from engine import (
    FRAME_SAMPLES,
    KOKORO_MODEL,
    SAMPLE_RATE,
    Engine,
    EngineConfig,
    SpeechRequest,
    TextTiming,
    Word,
    estimate_word_times,
    load_engine,
)
from engine.testing import FakeEngine
from engine.types import Samples

MILLISECOND = SAMPLE_RATE // 1000
TEXT = (
    "Dr. Lee paid $3.5 million on 5/12/2024, and she was very happy about it. We have been there for a long time, as "
    "if it were the only way. Glue the sheet to the dark blue background; it's easy to tell the depth of a well."
)


def spoken(engine: Engine, request: SpeechRequest) -> tuple[Samples, list[TextTiming]]:
    """The audio of a request, and its timings from the first sample on."""
    pieces: list[Samples] = []
    timings: list[TextTiming] = []
    for chunk in engine.stream(request):
        timings += [timing.moved(sum(map(len, pieces))) for timing in chunk.timings]
        pieces.append(chunk.samples)
    return np.concatenate(pieces), timings


def place(word: Word) -> tuple[int, int]:
    assert word.begin is not None
    assert word.end is not None
    return word.begin, word.end


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.close()


def test_trims_pauses_and_crossfades_move_the_words(fake: FakeEngine) -> None:
    text = "[pause:500ms]Twelve words are here to be seen. [pause:1s] And so on, and on it goes. Then it is over."
    request = SpeechRequest(
        text,
        timestamps=True,
        chunk_characters=30,
        crossfade_milliseconds=40,
        trim_start_milliseconds=400,
        trim_end_milliseconds=200,
    )
    samples, timings = spoken(fake, request)
    assert np.array_equal(samples, fake.generate(replace(request, timestamps=False)).samples)
    words = [word for timing in timings for word in timing.words]
    # The fake engine makes a frame for each character. 6 frames of "Twelve" less 400 ms are left, after 500 ms.
    assert [(words[0].begin, words[0].end)] == [(500 * MILLISECOND, 580 * MILLISECOND)]
    first = timings[0]  # "Twelve words are here to be"
    assert (first.begin, first.end) == (500 * MILLISECOND, (500 + 27 * 80 - 400) * MILLISECOND)
    paused = next(timing for timing in timings if timing.words[0].text == "And")
    assert paused.begin == timings[timings.index(paused) - 1].end + SAMPLE_RATE
    later = timings[timings.index(paused) + 1]
    assert later.begin == paused.end - 40 * MILLISECOND
    assert timings[-1].end == samples.size
    assert words[-1].end == samples.size  # cut by the trim, as the audio is
    assert [text[word.text_begin : word.text_end] for word in words] == [word.text for word in words]


def test_a_limit_drops_what_is_not_said(fake: FakeEngine) -> None:
    samples, timings = spoken(fake, SpeechRequest("One two three four.", timestamps=True, max_frames=9))
    assert samples.size == 9 * FRAME_SAMPLES
    assert [(word.text, word.end) for timing in timings for word in timing.words] == [
        ("One", 3 * FRAME_SAMPLES),
        ("two", 7 * FRAME_SAMPLES),
        ("three", 9 * FRAME_SAMPLES),
    ]


def test_nothing_is_told_unless_asked_for(fake: FakeEngine) -> None:
    assert spoken(fake, SpeechRequest("One two."))[1] == []


def test_words_between_known_ones_are_spread() -> None:
    words = (Word("a", 0, 1, 0, 100), Word("long", 2, 6), Word("one", 7, 10), Word("b", 11, 12, 500, 600))
    placed = estimate_word_times(TextTiming(words, 0, 600), np.zeros(600, np.float32)).words
    assert placed[0] == words[0]
    assert placed[3] == words[3]
    assert placed[1].begin == 100
    assert placed[1].end == placed[2].begin
    assert placed[2].end == 500


@pytest.mark.parametrize("size", [0, 1, 500, 24_000])
def test_any_audio_has_a_place_for_every_word(size: int) -> None:
    words = tuple(Word(text, 0, 1) for text in ("Hello,", "there", "1", "日本語", "…a"))
    timing = estimate_word_times(TextTiming(words, -size, 0), np.zeros(size, np.float32))
    places = [at for word in timing.words for at in (word.begin, word.end)]
    assert places == sorted(places)  # type: ignore[type-var]
    assert all(at is not None and -size <= at <= 0 for at in places)


def test_the_estimate_is_near_the_known_places_of_the_fallback_voice() -> None:
    engine = load_engine(EngineConfig(model=KOKORO_MODEL, slots=1))
    try:
        samples, timings = spoken(engine, SpeechRequest(TEXT, speaker=1, normalize=True, timestamps=True))
    finally:
        engine.close()
    assert sum(len(timing.words) for timing in timings) == 52
    off: list[int] = []
    for timing in timings:
        blind = replace(timing, words=tuple(replace(word, begin=None, end=None) for word in timing.words))
        estimated = estimate_word_times(blind, samples[timing.begin : timing.end])
        for guess, known in zip(estimated.words, timing.words, strict=True):
            off += [abs(place(guess)[side] - place(known)[side]) for side in (0, 1)]
    assert np.median(off) <= 150 * MILLISECOND
    _words_are_where_the_audio_is_loud(samples, timings)


def _words_are_where_the_audio_is_loud(samples: Samples, timings: list[TextTiming]) -> None:
    """The places that Kokoro tells agree with its audio: a tenth of a second off, there is less energy in them."""
    inside = np.zeros(samples.size, bool)
    for word in (word for timing in timings for word in timing.words):
        inside[word.begin : word.end] = True
    energy = samples.astype(np.float64) ** 2
    off = [energy[np.roll(inside, shift * MILLISECOND)].sum() for shift in (-100, 100)]
    assert energy[inside].sum() > 1.03 * max(off)
