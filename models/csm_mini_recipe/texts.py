"""Sentences to learn from: drawn word by word from pocketsphinx's trigrams, so that common words come often."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

# Never drawn: they are kept for the tests of what was learnt. Everyday sentences, no two alike.
CHOICE = (
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
OPEN = (
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

# Never drawn either: nobody should hear them by chance.
_RUDE = re.compile(r"fuck|shit|bitch|cunt|nigg|fag|slut|whore|rape|pussy|dick|cock|ass$|asshole|porn|nazi|blacks|damn")
_LEARNT = 7_000  # the commonest words that pocketsphinx knows how to say: what sentences are made of
_KNOWN = 15_000  # and those that have their own place in the list of how words are said
_CANDIDATES = 100  # of which one is drawn for each next word
_SHORTEST, _LONGEST = 1, 14  # words


@lru_cache(maxsize=1)
def _language() -> tuple[object, list[str], npt.NDArray[np.float64]]:
    """pocketsphinx's trigrams, its words, the commonest first, and how likely each is."""
    import pocketsphinx

    trigrams = pocketsphinx.NGramModel.readfile(pocketsphinx.get_model_path("en-us/en-us.lm.bin"))
    with open(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as lines:
        spoken = {line.split()[0] for line in lines}
    words = [word for word in spoken if re.fullmatch(r"[a-z]{2,}('[a-z]+)?|a|i", word) and not _RUDE.search(word)]
    scored = sorted(((trigrams.prob([word]), word) for word in words), reverse=True)
    weight: npt.NDArray[np.float64] = np.fromiter((_odds(score) for score, _ in scored), np.float64, len(scored))
    return trigrams, [word for _, word in scored], weight


def vocabulary() -> list[str]:
    """The commonest words, lower-case, the commonest first."""
    return _language()[1][:_KNOWN]


def _odds(score: int) -> float:
    return float(1.0001**score)  # sphinx counts in logarithms to this base


def sentences(seed: int) -> Iterator[str]:
    """Sentences without end, the same ones for the same seed, and none of CHOICE or OPEN."""
    trigrams, words, weight = _language()
    words, weight = words[:_LEARNT], weight[:_LEARNT] / weight[:_LEARNT].sum()
    rng = np.random.default_rng(seed)
    flat = weight**0.5 / (weight**0.5).sum()  # rare words, so that they are heard at all
    kept_back = {*CHOICE, *OPEN}
    while True:
        salad = rng.random() < 0.35  # words in no order teach spelling, words in order how they run together
        length = int(rng.integers(_SHORTEST, _LONGEST + 1))
        said = list(rng.choice(words, length, p=flat)) if salad else _in_order(rng, length, trigrams, words, weight)
        if " ".join(said) not in kept_back:
            yield _punctuated(rng, said)


def _in_order(
    rng: np.random.Generator,
    length: int,
    trigrams: object,
    words: list[str],
    weight: npt.NDArray[np.float64],
) -> list[str]:
    """Each word is one of some drawn by their own odds, chosen by how well it follows the last two."""
    said: list[str] = []
    for chosen in rng.choice(len(words), (length, _CANDIDATES), p=weight**0.8 / (weight**0.8).sum()):
        before = said[:-3:-1] if said else ["<s>"]
        score = np.array([trigrams.prob([words[each], *before]) for each in chosen], dtype=np.float64)  # type: ignore[attr-defined]
        gain = np.exp((score - score.max()) * np.log(1.0001)) / weight[chosen] ** 0.8
        said.append(words[rng.choice(chosen, p=gain / gain.sum())])
    return said


def _punctuated(rng: np.random.Generator, words: list[str]) -> str:
    """As people write: a capital, sometimes a comma, an end."""
    words = ["I" + word[1:] if re.fullmatch(r"i('.*)?", word) else word for word in words]
    if len(words) > 5 and rng.random() < 0.3:
        place = int(rng.integers(2, len(words) - 2))
        words[place] += ","
    text = " ".join(words)
    return text[0].upper() + text[1:] + str(rng.choice([".", ".", ".", ".", "?", "!", ""]))
