"""Text to Kokoro's phoneme tokens, through espeak-ng."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from ..fallback.espeak_library import EspeakLibrary
from ..timing import is_word
from .voices import ENGLISH

MAX_TOKENS = 500  # of one run of the model, which has a style for each number of tokens up to 510

# The ids of Kokoro's symbols, from its configuration; those that English does not use are left out.
_IDS = {
    ";": 1,
    ":": 2,
    ",": 3,
    ".": 4,
    "!": 5,
    "?": 6,
    "—": 9,
    "…": 10,
    " ": 16,
    "A": 24,
    "I": 25,
    "O": 31,
    "Q": 33,
    "T": 36,
    "W": 39,
    "Y": 41,
    "ᵊ": 42,
    "a": 43,
    "b": 44,
    "d": 46,
    "e": 47,
    "f": 48,
    "h": 50,
    "i": 51,
    "j": 52,
    "k": 53,
    "l": 54,
    "m": 55,
    "n": 56,
    "o": 57,
    "p": 58,
    "s": 61,
    "t": 62,
    "u": 63,
    "v": 64,
    "w": 65,
    "z": 68,
    "ɑ": 69,
    "ɒ": 71,
    "æ": 72,
    "ɔ": 76,
    "ð": 81,
    "ʤ": 82,
    "ə": 83,
    "ɛ": 86,
    "ɜ": 87,
    "ɡ": 92,
    "ɪ": 102,
    "ŋ": 112,
    "θ": 119,
    "ɹ": 123,
    "ʃ": 131,
    "ʧ": 133,
    "ʊ": 135,
    "ʌ": 138,
    "ʒ": 147,
    "ˈ": 156,
    "ˌ": 157,
    "ː": 158,
    "ᵻ": 177,
}
# espeak-ng's phonemes in the symbols that Kokoro was trained on: one letter for a diphthong or an affricate.
_WHOLE = {"ɜː": "ɜɹ", "əl": "ᵊl", "n̩": "ᵊn", "ɾ": "T", "ʔ": "t", "oː": "O", "o": "ɔ"}
_WITHIN = (
    *(("aɪ", "I"), ("aʊ", "W"), ("eɪ", "A"), ("oʊ", "O"), ("ɔɪ", "Y"), ("əʊ", "Q"), ("tʃ", "ʧ"), ("dʒ", "ʤ")),
    *(("ɚ", "əɹ"), ("ɐ", "ə"), ("r", "ɹ"), ("x", "k"), ("ɬ", "l"), ("g", "ɡ"), ("ç", "k")),
)
_STRESS = re.compile("[ˈˌ]")
_LANGUAGE = re.compile(r"\([a-z-]+\)")  # espeak-ng tells so where it changes to the language of another script
_MARKS = re.compile(r"[.,;:!?—…]+(?=\s|$)")  # within a word they are no pause
_PAUSES = str.maketrans({"。": ". ", "，": ", ", "、": ", ", "！": "! ", "？": "? ", "；": "; ", "：": ": ", "–": "—"})


@dataclass(frozen=True)
class Run:
    """Words between two marks. sounds: their phonemes, words separated by spaces. mark: what follows them, if any."""

    words: tuple[str, ...]
    sounds: str
    mark: str


@dataclass(frozen=True)
class Place:
    """The tokens of a word, from begin to end."""

    begin: int
    end: int


def transcribe(text: str, library: EspeakLibrary) -> list[Run]:
    """A text in Kokoro's phonemes; runs without any are left out. Raises EngineFailed."""
    text = re.sub(r"\s*—\s*", "— ", text.translate(_PAUSES))
    marks = [match.group() for match in _MARKS.finditer(text)]
    runs = [run.split() for run in _MARKS.split(text)]
    spoken = library.phonemes([" ".join(run) for run in runs], ENGLISH)
    transcribed = []
    for index, (words, transcription) in enumerate(zip(runs, spoken, strict=True)):
        mark = marks[index][-1] if index < len(marks) else ""
        if sounds := _sounds(transcription):
            transcribed.append(Run(tuple(filter(is_word, words)), _separated(sounds), mark))
    return transcribed


def tokens_of(runs: Iterable[Run]) -> list[list[int]]:
    """Token ids of a text in pieces of at most MAX_TOKENS; none if there is nothing to say."""
    return [[_IDS[symbol] for symbol in piece] for piece in _bounded(" ".join(run.sounds + run.mark for run in runs))]


def places_of(runs: Iterable[Run], library: EspeakLibrary) -> list[Place]:
    """Where each word of the runs is in the tokens of a text that is one piece. Raises EngineFailed."""
    places, at = [], 0
    for run in runs:
        places += [Place(at + first, at + last) for first, last in _word_spans(run, library)]
        at += len(run.sounds) + len(run.mark) + 1
    return places


def _word_spans(run: Run, library: EspeakLibrary) -> list[tuple[int, int]]:
    """Where each word is in the sounds of its run. Joined words ("have been") are parted as they sound alone."""
    spans = [found.span() for found in re.finditer(r"\S+", run.sounds)]
    if len(spans) == len(run.words):
        return spans
    alone = sounds_of(run.words, library)
    letters = [index for index, symbol in enumerate(run.sounds) if symbol != " "]
    together = run.sounds.replace(" ", "")
    matcher = SequenceMatcher(None, "".join(alone), together, autojunk=False)
    here, there = [0], [0]  # letters that correspond
    for block in matcher.get_matching_blocks():
        here += [block.a, block.a + block.size]
        there += [block.b, block.b + block.size]
    sizes = np.cumsum([0, *map(len, alone)])
    cuts = np.rint(np.interp(sizes, here, there)).astype(int)
    letters.append(len(run.sounds))
    ends = [letters[max(cut - 1, 0)] + 1 if cut else 0 for cut in cuts[1:]]
    return [(letters[begin], max(end, letters[begin])) for begin, end in zip(cuts, ends, strict=False)]


def sounds_of(words: Sequence[str], library: EspeakLibrary) -> list[str]:
    """The phonemes of each word, as it sounds alone. Raises EngineFailed."""
    return [_sounds(each).replace(" ", "") for each in library.phonemes(words, ENGLISH)]


def _sounds(transcription: str) -> str:
    """espeak-ng's phonemes in Kokoro's symbols, words separated by spaces."""
    return " ".join(filter(None, map(_symbols, _LANGUAGE.sub("", transcription).split())))


def _symbols(word: str) -> str:
    """A word of phonemes separated by `_` in Kokoro's symbols, without those that it does not know."""
    symbols = ""
    for phoneme in word.split("_"):
        bare = _STRESS.sub("", phoneme)
        stress = phoneme[: len(phoneme) - len(phoneme.lstrip("ˈˌ"))]
        if bare in _WHOLE:
            bare = _WHOLE[bare]
        else:
            for sound, symbol in _WITHIN:
                bare = bare.replace(sound, symbol)
        symbols += stress + bare.replace("ː", "")
    known = "".join(symbol for symbol in symbols if symbol in _IDS)
    return known.replace("ɹɹ", "ɹ") if _STRESS.sub("", known) else ""


def _separated(sounds: str) -> str:
    """Articles that espeak-ng joins to the word before them, as words of their own."""
    sounds = re.sub(r"(?<=[ɔəɪɹvtnɛɒ])ðə(?= |$)", " ðə", sounds)
    return re.sub(r"(?<![^ ])(əv|ɪn|ɔn|ɒn)ə(?= |$)", r"\1 ə", sounds)


def _bounded(sounds: str) -> Iterator[str]:
    """Cut at the last space before MAX_TOKENS."""
    while len(sounds) > MAX_TOKENS:
        cut = sounds.rfind(" ", 1, MAX_TOKENS)
        cut = MAX_TOKENS if cut < 0 else cut
        yield sounds[:cut]
        sounds = sounds[cut:].lstrip()
    if sounds:
        yield sounds
