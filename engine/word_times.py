"""Estimates when each word of a text chunk is said, from its phonemes' usual durations and the loudness of the audio.

Dynamic programming over frames of 10 ms divides the audio into words and silences between them: a word may last longer
or shorter than its phonemes usually do, and silence belongs where the audio is quiet, rather than elsewhere where the
text has a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, EngineFailed
from .timing import TextTiming, Word
from .types import SAMPLE_RATE, Samples

if TYPE_CHECKING:
    from .fallback.espeak_library import EspeakLibrary

HOP = SAMPLE_RATE // 100  # samples of a frame of 10 ms
_QUIET, _LOUD = -38.0, -24.0  # dB below the loud parts: surely silence, surely speech
_STRETCH = 6.0  # cost of a word that is e times as long as expected
_MOST_STRETCH = 3.0  # times the expected duration
_SILENT_FRAME = 0.5  # cost of a quiet frame inside a word, and of a loud one in a silence
_PAUSE_AFTER_MARK, _PAUSE_ELSEWHERE = 0.5, 3.0  # cost of a silence between two words
_FEWEST_FRAMES = 4  # of a word; in less time nothing can be told by the loudness
_MARKS = ".,;:!?…—"

Floats = npt.NDArray[np.float64]


def estimate_word_times(timing: TextTiming, samples: Samples) -> TextTiming:
    """The timing with a place for every word. Takes milliseconds: call it in a thread.

    samples: of the text chunk, float32 (samples,); the first is that at `timing.begin`.
    Words whose places are known keep them; those between are spread over the time between.
    """
    unknown = [index for index, word in enumerate(timing.words) if word.begin is None]
    if not unknown:
        return timing
    weights = _weights([word.text for word in timing.words])
    if len(unknown) == len(timing.words) and samples.size >= _FEWEST_FRAMES * HOP * len(timing.words):
        ends = _align(timing.words, weights, samples)
        placed = [
            replace(word, begin=timing.begin + begin, end=timing.begin + end)
            for word, (begin, end) in zip(timing.words, ends, strict=True)
        ]
    else:
        placed = _fill(timing, weights)
    return TextTiming(tuple(placed), timing.begin, timing.end)


def _fill(timing: TextTiming, weights: Floats) -> list[Word]:
    """Each run of words without a place, spread between those around it."""
    placed = list(timing.words)
    index = 0
    while index < len(placed):
        stop = index
        while stop < len(placed) and placed[stop].begin is None:
            stop += 1
        if stop > index:
            begin = (placed[index - 1].end if index else timing.begin) or 0
            end = (placed[stop].begin if stop < len(placed) else timing.end) or 0
            cuts = begin + (max(end - begin, 0) * np.cumsum([0.0, *weights[index:stop]])) / weights[index:stop].sum()
            for place in range(index, stop):
                at = place - index
                placed[place] = replace(placed[place], begin=round(cuts[at]), end=round(cuts[at + 1]))
        index = stop + 1
    return placed


def _align(words: Sequence[Word], weights: Floats, samples: Samples) -> list[tuple[int, int]]:
    """The first sample of each word and the sample after it."""
    frames = samples.size // HOP
    silence = _silence(samples, frames)
    speech = max(float((1 - silence).sum()), 1.0)
    expected = weights * speech / weights.sum()  # frames
    in_word = _SILENT_FRAME * np.cumsum([0.0, *silence])  # cost of all frames up to each, if in words
    in_silence = _SILENT_FRAME * np.cumsum([0.0, *(1 - silence)])
    infinite = np.full(frames + 1, np.inf)
    ended = np.append(0.0, infinite[1:])  # lowest cost with all words before this one ended at each frame
    begins: list[npt.NDArray[np.int64]] = []  # of each word, by the frame at which it ends
    silences: list[npt.NDArray[np.int64]] = []  # where the silence before each word begins, by the frame where it ends
    pause = 0.0  # silence before the first word is free
    for number, word in enumerate(words):
        begun, since = _after_silence(ended, in_silence, pause)
        shortest = max(1, int(expected[number] / _MOST_STRETCH))
        longest = max(shortest + 1, int(np.ceil(expected[number] * _MOST_STRETCH)))
        base = begun - in_word
        best, begin = infinite.copy(), np.zeros(frames + 1, np.int64)
        for length in range(shortest, min(longest, frames) + 1):
            cost = base[: frames + 1 - length] + _STRETCH * np.log(length / expected[number]) ** 2
            better = cost < best[length:]
            best[length:][better] = cost[better]
            begin[length:][better] = np.flatnonzero(better)
        ended = best + in_word
        begins.append(begin)
        silences.append(since)
        pause = _PAUSE_AFTER_MARK if word.text.rstrip("\"'”’)]»")[-1:] in _MARKS else _PAUSE_ELSEWHERE
    _, since = _after_silence(ended, in_silence, 0.0)
    return _trace_back(int(since[frames]), begins, silences)


def _after_silence(ended: Floats, in_silence: Floats, pause: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The lowest cost at each frame, with a silence before it or without, and where that silence begins."""
    relative = ended - in_silence
    lowest = np.minimum.accumulate(relative)
    positions = np.arange(ended.size)
    first = np.maximum.accumulate(np.where(relative == lowest, positions, 0))
    with_silence = lowest + in_silence + pause
    silent = with_silence < ended
    return np.where(silent, with_silence, ended), np.where(silent, first, positions)


def _trace_back(
    end: int, begins: Sequence[npt.NDArray[np.int64]], silences: Sequence[npt.NDArray[np.int64]]
) -> list[tuple[int, int]]:
    places = []
    for begin, since in zip(reversed(begins), reversed(silences), strict=True):
        first = int(begin[end])
        places.append((first * HOP, end * HOP))
        end = int(since[first])
    return places[::-1]


def _silence(samples: Samples, frames: int) -> Floats:
    """How surely each frame is silent, from 0 to 1: float64 (frames,)."""
    padded = np.zeros(frames * HOP)
    padded[: min(samples.size, padded.size)] = samples[: padded.size]
    power = (padded.reshape(frames, HOP) ** 2).mean(axis=1)
    power = np.convolve(power, [0.25, 0.5, 0.25], mode="same")
    level = 10 * np.log10(power + 1e-10)
    below = level - np.percentile(level, 95)
    return np.asarray(np.clip((_LOUD - below) / (_LOUD - _QUIET), 0.0, 1.0), np.float64)


# Usual durations in read speech, in ms: long vowels and diphthongs, short vowels, reduced ones, and consonants.
_DURATIONS = {
    **dict.fromkeys("AIOQWY", 150),
    **dict.fromkeys("iuɑɔɜ", 120),
    **dict.fromkeys("aæɒɛɪʊʌe", 95),
    **dict.fromkeys("əᵊᵻ", 55),
    **dict.fromkeys("sʃfθ", 105),
    **dict.fromkeys("ʧʤ", 115),
    **dict.fromkeys("zʒvð", 70),
    **dict.fromkeys("ptkbdɡT", 75),
    **dict.fromkeys("mnŋ", 70),
    **dict.fromkeys("lɹwjh", 60),
    **dict.fromkeys("ˈˌ", 0),
}
_OTHER = 75
_STRESSED = 25  # ms more
_BEFORE_MARK = 1.1  # times as long is the last word before a mark
_WORD = 40  # ms more for each word
_LETTER = 75  # ms of a letter, where espeak-ng is missing


def _weights(words: Sequence[str]) -> Floats:
    """The usual duration of each word in ms."""
    durations = []
    for word, sounds in zip(words, _sounds(words), strict=True):
        duration = sum(_DURATIONS.get(sound, _OTHER) for sound in sounds) if sounds else _LETTER * len(word)
        duration += _WORD + _STRESSED * sounds.count("ˈ")
        durations.append(duration * (_BEFORE_MARK if word.rstrip("\"'”’)]»")[-1:] in _MARKS else 1.0))
    return np.maximum(np.array(durations, np.float64), 30.0)


def _sounds(words: Sequence[str]) -> list[str]:
    """The phonemes of each word; empty where espeak-ng knows none or is missing."""
    try:
        from .kokoro.phonemes import sounds_of

        return sounds_of(words, _library())
    except (CheckpointError, EngineFailed):
        return [""] * len(words)


@cache
def _library() -> EspeakLibrary:
    from .fallback.espeak_library import EspeakLibrary

    return EspeakLibrary()
