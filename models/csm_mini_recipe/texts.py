"""Generates training sentences by sampling from pocketsphinx's trigram model, with natural word frequencies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

# Evaluation sentences, excluded from training: distinct everyday sentences.
CLOSED_SET = (
    "the quick brown fox jumps over the lazy dog",
    "please close the window before you leave",
    "our train arrives at seven in the evening",
    "she bought fresh bread and butter",
    "the weather will be sunny tomorrow",
    "he lost his keys near the river",
    "we should paint the kitchen green",
    "my brother plays the guitar very well",
    "turn left after the second bridge",
    "the doctor will see you now",
    "the children are playing in the garden",
    "i would like a cup of hot coffee",
    "nobody knows what happened last night",
    "the library opens at nine in the morning",
    "her new job starts on the first of may",
    "it takes three hours to drive to the coast",
    "the old man told us a funny story",
    "can you help me carry these boxes",
    "they are building a new school near the park",
    "the ship sailed across the stormy sea",
)
OPEN_SET = (
    "i think we should go home before it gets dark",
    "the meeting was moved to friday afternoon",
    "could you tell me where the nearest station is",
    "my sister wants to become a teacher",
    "there is a small shop at the end of the street",
    "we had dinner with some friends last week",
    "the movie was much longer than i expected",
    "he always drinks tea with milk and sugar",
    "the phone rang twice and then it stopped",
    "most people work five days a week",
    "you can leave your bag in the other room",
    "the water in the lake is very cold today",
    "they decided to sell their house in the city",
    "a good book can change the way you think",
    "the police found the car two days later",
    "she speaks english and a little french",
    "the price of food has gone up again this year",
    "i forgot to call my mother on sunday",
    "the dog ran across the field and into the woods",
    "we need more time to finish this work",
)

# Excluded as well: offensive words.
_OFFENSIVE = re.compile(
    r"fuck|shit|bitch|cunt|nigg|fag|slut|whore|rape|pussy|dick|cock|ass$|asshole|porn|nazi|blacks|damn"
)
_SENTENCE_WORDS = 7_000  # sentences use the most frequent words in pocketsphinx's dictionary
_VOCABULARY_SIZE = 15_000  # words in the tokenizer's lexicon
_CANDIDATES = 100  # per next word
_MIN_WORDS, _MAX_WORDS = 1, 14


@lru_cache(maxsize=1)
def _language() -> tuple[object, list[str], npt.NDArray[np.float64]]:
    """pocketsphinx's trigram model, its words by descending frequency, and their probabilities."""
    import pocketsphinx

    trigrams = pocketsphinx.NGramModel.readfile(pocketsphinx.get_model_path("en-us/en-us.lm.bin"))
    with open(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as lines:
        spoken = {line.split()[0] for line in lines}
    words = [word for word in spoken if re.fullmatch(r"[a-z]{2,}('[a-z]+)?|a|i", word) and not _OFFENSIVE.search(word)]
    scored = sorted(((trigrams.prob([word]), word) for word in words), reverse=True)
    weight: npt.NDArray[np.float64] = np.fromiter((_probability(score) for score, _ in scored), np.float64, len(scored))
    return trigrams, [word for _, word in scored], weight


def vocabulary() -> list[str]:
    """The most frequent words, lower-case, by descending frequency."""
    return _language()[1][:_VOCABULARY_SIZE]


def _probability(score: int) -> float:
    return float(1.0001**score)  # the base of sphinx's log probabilities


def sentences(seed: int) -> Iterator[str]:
    """An endless stream of sentences, deterministic for a seed, without those of CLOSED_SET and OPEN_SET."""
    trigrams, words, weight = _language()
    words, weight = words[:_SENTENCE_WORDS], weight[:_SENTENCE_WORDS] / weight[:_SENTENCE_WORDS].sum()
    rng = np.random.default_rng(seed)
    flat = weight**0.5 / (weight**0.5).sum()  # flattened, so that rare words occur
    held_out = {*CLOSED_SET, *OPEN_SET}
    while True:
        shuffled = rng.random() < 0.35  # shuffled words teach pronunciation, sentences coarticulation
        length = int(rng.integers(_MIN_WORDS, _MAX_WORDS + 1))
        sentence = (
            list(rng.choice(words, length, p=flat))
            if shuffled
            else _sample_trigrams(rng, length, trigrams, words, weight)
        )
        if " ".join(sentence) not in held_out:
            yield _punctuated(rng, sentence)


def _sample_trigrams(
    rng: np.random.Generator,
    length: int,
    trigrams: object,
    words: list[str],
    weight: npt.NDArray[np.float64],
) -> list[str]:
    """Sample each word by trigram probability from candidates drawn by unigram probability."""
    sentence: list[str] = []
    for candidates in rng.choice(len(words), (length, _CANDIDATES), p=weight**0.8 / (weight**0.8).sum()):
        context = sentence[:-3:-1] if sentence else ["<s>"]
        score = np.array([trigrams.prob([words[each], *context]) for each in candidates], dtype=np.float64)  # type: ignore[attr-defined]
        gain = np.exp((score - score.max()) * np.log(1.0001)) / weight[candidates] ** 0.8
        sentence.append(words[rng.choice(candidates, p=gain / gain.sum())])
    return sentence


def _punctuated(rng: np.random.Generator, words: list[str]) -> str:
    """Add a capital, sometimes a comma, and a final mark."""
    words = ["I" + word[1:] if re.fullmatch(r"i('.*)?", word) else word for word in words]
    if len(words) > 5 and rng.random() < 0.3:
        place = int(rng.integers(2, len(words) - 2))
        words[place] += ","
    text = " ".join(words)
    return text[0].upper() + text[1:] + str(rng.choice([".", ".", ".", ".", "?", "!", ""]))
