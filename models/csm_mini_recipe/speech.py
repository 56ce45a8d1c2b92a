"""Generates the training data: sentences synthesized by espeak-ng in several voices, with transcripts."""

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

from .pitch_alignment import align_to_frames
from .pronunciation import PUNCTUATION, build_tokenizer, frame_count, pronounce
from .texts import sentences, vocabulary

Recording = npt.NDArray[np.int16]  # (samples,) at 24 kHz

# The four shipped voices: distinct in pitch, and each well recognised by ASR.
VOICES = {
    "anna": EspeakVoice("f2", 190),
    "clara": EspeakVoice("f5", 200, pitch=66),
    "bruno": EspeakVoice("m2", 99),
    "david": EspeakVoice("edward", 99, pitch=72),
}
SPEAKERS = ("bruno", "clara", "anna", "david")  # by speaker number; 0 is the default voice
# Transcripts of the voices' recordings.
PROMPTS = {
    "anna": "Good morning, and welcome. It is a pleasure to read to you today.",
    "clara": "The garden is full of flowers, and the birds begin to sing at dawn.",
    "bruno": "We walked along the river until the sun went down behind the hills.",
    "david": "There is plenty of time, so let me tell you how it all began.",
}
_OTHER_VOICES = (*HIGH, *LOW)  # used for a tenth of all clips, at random pitch, for variety
_OTHER_SHARE = 0.1
_PITCH_RANGE = 30  # below espeak-ng's default of 50, since the frame grid allows few pitches
_CLIPS_PER_SHARD = 250
_SPEECH_LEVEL = 250  # of 32,768: speech begins and ends above it
_TAIL_SECONDS = 0.06  # kept after speech


@dataclass(frozen=True)
class Clip:
    """One synthesized sentence. voice: a name in VOICES, or variant and pitch of another voice."""

    text: str
    voice: str
    samples: int


def synthesize(library: EspeakLibrary, text: str, voice: EspeakVoice) -> Recording:
    """Synthesize one sentence, aligned to frames: one frame per token."""
    raw, words = _espeak_samples(library, text, voice, _PITCH_RANGE)
    loud = np.flatnonzero(np.abs(raw) > _SPEECH_LEVEL)
    spoken = _resample(raw[words[0][0] : loud[-1] + int(_TAIL_SECONDS * RATE)])
    # words that espeak-ng speaks as one share their frames
    word_starts: dict[int, list[int]] = {}
    for sample, character in words:
        begin = round((sample - words[0][0]) * SAMPLE_RATE / RATE)
        if begin < spoken.size:
            word_starts.setdefault(begin, []).append(character)
    word_offsets = [min(characters) for characters in word_starts.values()]
    frames = [0] * len(word_offsets)
    for word in re.finditer(r"\S+", text):
        frames[max(bisect_right(word_offsets, word.start()) - 1, 0)] += _word_frame_count(word[0])
    voiced_words = [(begin, count) for begin, count in zip(word_starts, frames, strict=True) if count]
    return align_to_frames(spoken, [0, *(begin for begin, _ in voiced_words[1:])], [count for _, count in voiced_words])


def synthesize_unaligned(library: EspeakLibrary, text: str, voice: EspeakVoice) -> Recording:
    """Synthesize one sentence with unmodified espeak-ng, at 24 kHz."""
    raw, _ = _espeak_samples(library, text, voice, 50)
    return _resample(raw)


@lru_cache(maxsize=1)
def lexicon() -> dict[str, list[str]]:
    """Phonemes of the vocabulary. All voices pronounce words alike."""
    return pronounce(vocabulary(), VOICES["anna"])


def _word_frame_count(word: str) -> int:
    """word: with trailing punctuation."""
    letters = word.rstrip(PUNCTUATION)
    phonemes = lexicon().get(letters.lower())
    return (_rule_frame_count(letters) if phonemes is None else frame_count(phonemes)) + (letters != word)


def _rule_frame_count(word: str) -> int:
    return len(_rule_tokenizer().encode(word, add_special_tokens=False).ids)


@lru_cache(maxsize=1)
def _rule_tokenizer() -> Any:
    """A tokenizer with an empty lexicon."""
    return build_tokenizer({})


def _espeak_samples(
    library: EspeakLibrary, text: str, voice: EspeakVoice, pitch_range: int
) -> tuple[npt.NDArray[np.int16], list[Word]]:
    """Samples at espeak-ng's sample rate, and the word boundaries."""
    pieces: list[npt.NDArray[np.int16]] = []
    words: list[Word] = []

    def append(pcm: npt.NDArray[np.int16]) -> bool:
        pieces.append(pcm)
        return True

    library.synthesize(text, voice, pitch_range, True, append, words)
    return np.concatenate(pieces), words


def _resample(raw: npt.NDArray[np.int16]) -> Recording:
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
            other = _OTHER_VOICES[int(rng.integers(len(_OTHER_VOICES)))]
            voice = EspeakVoice(other.variant, other.hertz, int(rng.integers(30, 80)))
            name = f"{voice.variant}@{voice.pitch}"
        spoken = synthesize(library, text, voice)
        yield Clip(text, name, spoken.size), spoken


def write_shard(directory: Path, seed: int, shard: int) -> Path:
    """Write one shard of clips unless it exists: concatenated samples in .npy, one clip per line in .jsonl."""
    index, samples = directory / f"{shard:05}.jsonl", directory / f"{shard:05}.npy"
    if not index.exists():
        torch.set_num_threads(1)
        clips_of_shard = _clips(seed * 100_000 + shard)
        clips, spoken = zip(*(next(clips_of_shard) for _ in range(_CLIPS_PER_SHARD)), strict=True)
        np.save(samples, np.concatenate(spoken))
        partial_path = index.with_suffix(".part")
        partial_path.write_text("".join(json.dumps(asdict(clip)) + "\n" for clip in clips), encoding="utf-8")
        os.replace(partial_path, index)
    return index


def write_dataset(directory: Path, seed: int, clips: int, processes: int = 2) -> None:
    """Write at least `clips` clips; existing shards are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = range(-(-clips // _CLIPS_PER_SHARD))
    with get_context("spawn").Pool(processes) as pool:
        for done, index in enumerate(pool.imap_unordered(partial(write_shard, directory, seed), shards), 1):
            print(f"speech: {done} of {len(shards)} shards ({index.name})", flush=True)


def write_voices(directory: Path) -> None:
    """Write the voices' recordings with their transcripts, in the layout of PRELOADED_VOICES_DIR."""
    directory.mkdir(parents=True, exist_ok=True)
    library = EspeakLibrary()
    for name, voice in VOICES.items():
        with wave.open(str(directory / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(synthesize(library, PROMPTS[name], voice).astype("<i2").tobytes())
        (directory / f"{name}.txt").write_text(f"{PROMPTS[name]}\n", encoding="utf-8")


def read_dataset(directory: Path) -> Iterator[tuple[str, Clip, Recording]]:
    """Yields all clips as (unique name, clip, samples), shard by shard."""
    for index in sorted(directory.glob("*.jsonl")):
        samples = np.load(index.with_suffix(".npy"), mmap_mode="r")
        start = 0
        for number, line in enumerate(index.read_text(encoding="utf-8").splitlines()):
            clip = Clip(**json.loads(line))
            yield f"{index.stem}-{number:03}", clip, samples[start : start + clip.samples]
            start += clip.samples
