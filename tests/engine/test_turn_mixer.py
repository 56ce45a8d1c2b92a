from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.timing import TextTiming
from engine.turn_mixer import TurnMixer
from engine.types import AudioChunk, DialogueTurn, Samples

MILLISECOND = 24  # samples
FRAME = 240  # samples of a frame in these tests

sizes = st.lists(st.tuples(st.integers(0, 12), st.integers(-80, 60)), min_size=1, max_size=5)  # frames, gap in ms
Turns = list[tuple[int, int]]


def samples_of(turns: Turns) -> list[Samples]:
    """Quiet noise, so that no mix of these turns is clipped."""
    rng = np.random.default_rng(3)
    return [rng.uniform(-0.1, 0.1, frames * FRAME).astype(np.float32) for frames, _ in turns]


def placed(turns: Turns) -> tuple[list[int], Samples]:
    """The first sample of each turn, and the dialogue."""
    spoken, begins, end = samples_of(turns), [], 0
    mixed = np.zeros(sum(each.size for each in spoken) + 100_000, np.float32)
    for number, ((_, gap), samples) in enumerate(zip(turns, spoken, strict=True)):
        begins.append(max(end + gap * MILLISECOND, begins[-1]) if number else 0)
        mixed[begins[-1] : begins[-1] + samples.size] += samples
        end = max(end, begins[-1] + samples.size)
    return begins, mixed[:end]


def slices(turns: Turns, frames_of_slice: int) -> list[AudioChunk]:
    chunks, frames_before = [], 0
    for part, samples in enumerate(samples_of(turns)):
        count = samples.size // FRAME
        for first in range(0, max(count, 1), frames_of_slice):
            after = min(first + frames_of_slice, count)
            ends = after == count
            chunks.append(
                AudioChunk(
                    samples[first * FRAME : after * FRAME],
                    np.arange(frames_before + first, frames_before + after).reshape(-1, 1),
                    text_chunk=part,
                    ends_text_chunk=ends,
                    ends_speech=ends and part == len(turns) - 1,
                    text_part=part,
                    ends_text_part=ends,
                    timings=(TextTiming((), -first * FRAME, (count - first) * FRAME),) if ends else (),
                )
            )
        frames_before += count
    return chunks


def mixed(turns: Turns, frames_of_slice: int) -> list[AudioChunk]:
    mixer = TurnMixer([DialogueTurn("a", gap_milliseconds=gap) for _, gap in turns])
    return [chunk for each in slices(turns, frames_of_slice) if (chunk := mixer.push(each)) is not None]


@given(sizes, st.integers(1, 12))
def test_turns_follow_each_other_with_silence_or_mixed_in_slices_of_any_size(turns: Turns, size: int) -> None:
    chunks = mixed(turns, size)
    begins, expected = placed(turns)
    output = np.concatenate([chunk.samples for chunk in chunks])
    np.testing.assert_allclose(output, expected, atol=1e-6)
    codes = np.concatenate([chunk.codes for chunk in chunks])
    np.testing.assert_array_equal(codes[:, 0], np.arange(sum(frames for frames, _ in turns)))
    assert [chunk.ends_speech for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    found, done = [], 0
    for chunk in chunks:
        found += [(done + each.begin, done + each.end) for each in chunk.timings]
        done += chunk.samples.size
    spans = [(begin, begin + frames * FRAME) for begin, (frames, _) in zip(begins, turns, strict=True)]
    assert found == spans


@given(sizes, st.integers(1, 3), st.integers(1, 12))
def test_the_codes_that_come_with_samples_do_not_depend_on_the_slices(turns: Turns, one: int, other: int) -> None:
    """A stream that is resumed finds its place by both."""

    def after(size: int) -> dict[int, int]:
        samples = codes = 0
        counts: dict[int, int] = {}
        for chunk in mixed(turns, size):
            samples, codes = samples + chunk.samples.size, codes + len(chunk.codes)
            counts[samples] = codes
        return counts

    first, second = after(one), after(other)
    places = sorted({*first, *second})
    for counts in (first, second):
        known = [counts[place] for place in places if place in counts]
        assert known == sorted(known)
    for early in first:
        assert all(second[late] >= first[early] for late in second if late > early)


def test_a_turn_without_audio_still_has_its_gaps() -> None:
    mixer = TurnMixer(
        [DialogueTurn("a"), DialogueTurn("b", gap_milliseconds=10), DialogueTurn("c", gap_milliseconds=5)]
    )
    none = np.zeros((0, 1), np.int64)
    first = mixer.push(AudioChunk(np.ones(100, np.float32), none, text_part=0, ends_text_part=True))
    last = mixer.push(AudioChunk(np.ones(100, np.float32), none, text_part=2, ends_text_part=True, ends_speech=True))
    assert first is not None
    assert last is not None
    output = np.concatenate([first.samples, last.samples])
    np.testing.assert_array_equal(np.flatnonzero(output == 0), np.arange(100, 100 + 15 * MILLISECOND))


def test_voices_that_are_loud_together_are_clipped() -> None:
    mixer = TurnMixer([DialogueTurn("a"), DialogueTurn("b", gap_milliseconds=-2)])
    none, loud = np.zeros((0, 1), np.int64), np.full(100, 0.9, np.float32)
    first = mixer.push(AudioChunk(loud, none, text_part=0, ends_text_part=True))
    last = mixer.push(AudioChunk(loud, none, text_part=1, ends_text_part=True, ends_speech=True))
    assert first is not None
    assert last is not None
    assert first.samples.size == 100 - 2 * MILLISECOND  # the rest is held back until it is mixed
    np.testing.assert_array_equal(last.samples[: 2 * MILLISECOND], 1)
    assert (last.samples[2 * MILLISECOND :] == loud[0]).all()
