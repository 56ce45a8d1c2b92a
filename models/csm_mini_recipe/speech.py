"""Recordings to learn from: sentences spoken by espeak-ng in several voices, with their transcripts."""

from __future__ import annotations

import json
import os
import re
import wave
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.fallback.espeak_library import RATE, EspeakLibrary, Word
from engine.fallback.voices import HIGH, LOW, EspeakVoice
from engine.types import SAMPLE_RATE

from .pitch_alignment import tune
from .pronunciation import MARKS, build_tokenizer, frames_of, pronounce
from .texts import sentences, vocabulary

Recording = npt.NDArray[np.int16]  # (samples,) at 24 kHz

# The four that are shipped: far from each other in pitch, and each well understood by a recogniser.
VOICES = {
    "anna": EspeakVoice("f2", 190),
    "clara": EspeakVoice("f5", 200, pitch=66),
    "bruno": EspeakVoice("m2", 99),
    "david": EspeakVoice("edward", 99, pitch=72),
}
SPEAKERS = ("bruno", "clara", "anna", "david")  # by their numbers; 0 speaks where nobody names a voice
# What each of them says in the recording that is its voice.
PROMPTS = {
    "anna": "Good morning, and welcome. It is a pleasure to read to you today.",
    "clara": "The garden is full of flowers, and the birds begin to sing at dawn.",
    "bruno": "We walked along the river until the sun went down behind the hills.",
    "david": "There is plenty of time, so let me tell you how it all began.",
}
_OTHERS = (*HIGH, *LOW)  # a tenth of all clips, at any pitch: what a voice can be besides
_OTHER_SHARE = 0.1
_PITCH_RANGE = 30  # less than espeak-ng's own 50: there are few pitches on the grid
_CLIPS_PER_SHARD = 250
_LOUD = 250  # of 32,768: where speech begins and ends
_MARGIN = 0.06  # seconds kept behind it


@dataclass(frozen=True)
class Clip:
    """One sentence as it was spoken. voice: a name in VOICES, or variant and pitch of another."""

    text: str
    voice: str
    samples: int


def speak(library: EspeakLibrary, text: str, voice: EspeakVoice) -> Recording:
    """One sentence, tuned to frames: one for each of its tokens."""
    raw, words = _said(library, text, voice, _PITCH_RANGE)
    loud = np.flatnonzero(np.abs(raw) > _LOUD)
    spoken = _at_24_khz(raw[words[0][0] : loud[-1] + int(_MARGIN * RATE)])
    # what is said as one word has all its frames
    begins: dict[int, list[int]] = {}
    for sample, character in words:
        begin = round((sample - words[0][0]) * SAMPLE_RATE / RATE)
        if begin < spoken.size:
            begins.setdefault(begin, []).append(character)
    places = [min(characters) for characters in begins.values()]
    frames = [0] * len(places)
    for word in re.finditer(r"\S+", text):
        frames[max(bisect_right(places, word.start()) - 1, 0)] += _frames_of(word[0])
    taken = [(begin, count) for begin, count in zip(begins, frames, strict=True) if count]
    return tune(spoken, [0, *(begin for begin, _ in taken[1:])], [count for _, count in taken])


def speak_as_it_is(library: EspeakLibrary, text: str, voice: EspeakVoice) -> Recording:
    """One sentence as espeak-ng itself says it, at 24 kHz."""
    raw, _ = _said(library, text, voice, 50)
    return _at_24_khz(raw)


@lru_cache(maxsize=1)
def lexicon() -> dict[str, list[str]]:
    """How all known words are said. One voice says them as all others do."""
    return pronounce(vocabulary(), VOICES["anna"])


def _frames_of(word: str) -> int:
    """word: with the marks behind it."""
    bare = word.rstrip(MARKS)
    known = lexicon().get(bare.lower())
    return (_frames_by_rules(bare) if known is None else frames_of(known)) + (bare != word)


def _frames_by_rules(word: str) -> int:
    return len(_rules().encode(word, add_special_tokens=False).ids)


@lru_cache(maxsize=1)
def _rules() -> Any:
    """A tokenizer that knows no word."""
    return build_tokenizer({})


def _said(
    library: EspeakLibrary, text: str, voice: EspeakVoice, pitch_range: int
) -> tuple[npt.NDArray[np.int16], list[Word]]:
    """Samples at espeak-ng's own rate, and where words begin."""
    pieces: list[npt.NDArray[np.int16]] = []
    words: list[Word] = []

    def take(pcm: npt.NDArray[np.int16]) -> bool:
        pieces.append(pcm)
        return True

    library.synthesize(text, voice, pitch_range, True, take, words)
    return np.concatenate(pieces), words


def _at_24_khz(raw: npt.NDArray[np.int16]) -> Recording:
    import torchaudio.functional

    resampled = torchaudio.functional.resample(torch.from_numpy(raw.astype(np.float32)), RATE, SAMPLE_RATE)
    spoken: Recording = resampled.round().clamp(-32768, 32767).to(torch.int16).numpy()
    return spoken


def _clips(seed: int) -> Iterator[tuple[Clip, Recording]]:
    library, rng, names = EspeakLibrary(), np.random.default_rng(seed), list(VOICES)
    for text in sentences(seed):
        name = names[int(rng.integers(len(names)))]
        voice = VOICES[name]
        if rng.random() < _OTHER_SHARE:
            other = _OTHERS[int(rng.integers(len(_OTHERS)))]
            voice = EspeakVoice(other.variant, other.hertz, int(rng.integers(30, 80)))
            name = f"{voice.variant}@{voice.pitch}"
        spoken = speak(library, text, voice)
        yield Clip(text, name, spoken.size), spoken


def make_shard(directory: Path, seed: int, shard: int) -> Path:
    """Write one shard of clips, unless it is there: samples end to end in .npy, the clips line by line in .jsonl."""
    index, samples = directory / f"{shard:05}.jsonl", directory / f"{shard:05}.npy"
    if not index.exists():
        torch.set_num_threads(1)
        made = _clips(seed * 100_000 + shard)
        clips, spoken = zip(*(next(made) for _ in range(_CLIPS_PER_SHARD)), strict=True)
        np.save(samples, np.concatenate(spoken))
        unfinished = index.with_suffix(".part")
        unfinished.write_text("".join(json.dumps(asdict(clip)) + "\n" for clip in clips), encoding="utf-8")
        os.replace(unfinished, index)
    return index


def make_speech(directory: Path, seed: int, clips: int, processes: int = 2) -> None:
    """At least that many clips in `directory`; those that are there stay."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = range(-(-clips // _CLIPS_PER_SHARD))
    with get_context("spawn").Pool(processes) as pool:
        for done, index in enumerate(pool.imap_unordered(partial(make_shard, directory, seed), shards), 1):
            print(f"speech: {done} of {len(shards)} shards ({index.name})", flush=True)


def write_voices(directory: Path) -> None:
    """The recordings that are the voices, each with its transcript beside it, as PRELOADED_VOICES_DIR has them."""
    directory.mkdir(parents=True, exist_ok=True)
    library = EspeakLibrary()
    for name, voice in VOICES.items():
        with wave.open(str(directory / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(speak(library, PROMPTS[name], voice).astype("<i2").tobytes())
        (directory / f"{name}.txt").write_text(f"{PROMPTS[name]}\n", encoding="utf-8")


def read_speech(directory: Path) -> Iterator[tuple[str, Clip, Recording]]:
    """Every clip that is there, shard by shard, with a name of its own."""
    for index in sorted(directory.glob("*.jsonl")):
        samples = np.load(index.with_suffix(".npy"), mmap_mode="r")
        start = 0
        for number, line in enumerate(index.read_text(encoding="utf-8").splitlines()):
            clip = Clip(**json.loads(line))
            yield f"{index.stem}-{number:03}", clip, samples[start : start + clip.samples]
            start += clip.samples
