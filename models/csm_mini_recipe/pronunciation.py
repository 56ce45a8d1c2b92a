"""How words are said: a tokenizer of phonemes, so that nobody has to learn English spelling from a few hours of speech.

A token is a frame: 80 ms of a phoneme, of which long ones have two, or of silence at a mark. At the end stands a token
for how many they are (pointing.py tells why).

All of it is in `tokenizer.json`: a list of words with the phonemes that espeak-ng has for them, and rules for letters
in any other word. What reads the file needs neither espeak-ng nor this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers  # type: ignore[import-untyped]
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from engine.fallback.espeak_library import EspeakLibrary
from engine.fallback.voices import EspeakVoice
from engine.random_checkpoint import SPECIAL_TOKENS

# Vowels bear the stress of their syllable, or none; espeak-ng's secondary stress counts as none.
_VOWELS = [
    "i", "iː", "ɪ", "ᵻ", "iə", "ɛ", "ɛɹ", "eɪ", "æ", "ɐ", "ə", "əl", "ɚ", "ʌ", "ɜː", "ɑː", "ɑːɹ", "ɔ", "ɔː", "ɔːɹ",
    "oʊ", "ʊ", "ʊɹ", "uː", "aɪ", "aɪə", "aɪɚ", "aʊ", "ɔɪ", "ɪɹ", "n̩",
]  # fmt: skip
_CONSONANTS = [
    "p", "b", "t", "d", "k", "ɡ", "ɾ", "ʔ", "m", "n", "ŋ", "f", "v", "θ", "ð", "s", "z", "ʃ", "ʒ", "tʃ", "dʒ", "h",
    "w", "j", "ɹ", "l",
]  # fmt: skip
_LONG = {
    f"ˈ{vowel}" for vowel in ("iː", "eɪ", "ɜː", "ɑː", "ɑːɹ", "ɔː", "ɔːɹ", "oʊ", "uː", "aɪ", "aɪə", "aɪɚ", "aʊ", "ɔɪ")
}
PHONEMES = (*_CONSONANTS, *_VOWELS, *(f"ˈ{vowel}" for vowel in _VOWELS))
_SYMBOLS = {phoneme: chr(0xE000 + number) for number, phoneme in enumerate(PHONEMES)}  # a character for each
MARKS = ",.;:?!"  # a frame of silence each
COUNTS = {number: chr(0xE800 + number) for number in range(1, 301)}  # ends a text of that many frames
_UNCOUNTED = f"[^\\]{COUNTS[1]}-{COUNTS[len(COUNTS)]}]"
SAID = "".join(_SYMBOLS.values()) + MARKS  # a frame each
# Digits stand in the speaker's brackets alone.
ALPHABET = SAID + "[]0123456789" + "".join(COUNTS.values())

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_CARRIER = ("they say", "then")  # around a word, which alone would be said like a heading

# Letters of words that nobody listed, from the first rule to the last: a pattern, and what is said for it.
# `^` and `$` are a word's beginning and end, `_` is any place behind its first letter, C a consonant's letter.
_RULES = (
    ("'", ""), ("tions?$", "ʃ ə n"), ("sion$", "ʒ ə n"), ("tious|cious", "ʃ ə s"), ("cial|tial", "ʃ əl"),
    ("ture$", "tʃ ɚ"), ("ough(?=t)", "ˈɔː"), ("ough", "ˈʌ f"), ("augh", "ˈɔː"), ("eigh", "ˈeɪ"), ("igh", "ˈaɪ"),
    ("^kn", "n"), ("^wr", "ɹ"), ("^ps", "s"), ("tch", "tʃ"), ("sch", "s k"), ("ch(?=[lr])", "k"), ("ch", "tʃ"),
    ("sh", "ʃ"), ("ph", "f"), ("th", "θ"), ("wh", "w"), ("gh", "ɡ"), ("ck", "k"), ("dge", "dʒ"), ("ng$", "ŋ"),
    ("n(?=[gk])", "ŋ"), ("qu", "k w"), ("mb$", "m"), ("sc(?=[eiy])", "s"), ("x", "k s"), ("les?$", "əl"),
    ("a(?=Ces?$)", "ˈeɪ"), ("e(?=Ces?$)", "ˈiː"), ("i(?=Ces?$)", "ˈaɪ"), ("o(?=Ces?$)", "ˈoʊ"),
    ("u(?=Ces?$)", "ˈuː"), ("y(?=Ces?$)", "ˈaɪ"), ("_ed$", "d"), ("c(?=[eiy])", "s"), ("g(?=[eiy])", "dʒ"),
    ("_e$", ""), ("_es$", "z"), ("air|are$", "ˈɛɹ"), ("ear|eer|ier$", "ˈɪɹ"), ("oor|our|ore|oar", "ˈɔːɹ"),
    ("ar", "ˈɑːɹ"), ("or", "ˈɔːɹ"), ("^er|ir|ur", "ˈɜː"), ("er", "ɚ"), ("ai|ay|ei|ey", "ˈeɪ"), ("au|aw", "ˈɔː"),
    ("ee|ea|ie", "ˈiː"), ("oa|oe", "ˈoʊ"), ("oi|oy", "ˈɔɪ"), ("oo|ou|eu|ew|ue|ui", "ˈuː"), ("ow$", "oʊ"),
    ("ow", "ˈaʊ"), ("bb", "b"), ("cc", "k"), ("dd", "d"), ("ff", "f"), ("gg", "ɡ"), ("ll", "l"), ("mm", "m"),
    ("nn", "n"), ("pp", "p"), ("rr", "ɹ"), ("ss", "s"), ("tt", "t"), ("zz", "z"), ("^y", "j"), ("y$", "i"),
    ("y", "ɪ"), ("a$", "ə"), ("o$", "oʊ"), ("i$", "i"), ("u$", "uː"), ("a", "ˈæ"), ("e", "ˈɛ"), ("i", "ɪ"),
    ("o", "ˈɑː"), ("u", "ˈʌ"), ("b", "b"), ("c", "k"), ("d", "d"), ("f", "f"), ("g", "ɡ"), ("h", "h"), ("j", "dʒ"),
    ("k", "k"), ("l", "l"), ("m", "m"), ("n", "n"), ("p", "p"), ("q", "k"), ("r", "ɹ"), ("s", "s"), ("t", "t"),
    ("v", "v"), ("w", "w"), ("z", "z"),
)  # fmt: skip
_BETWEEN_WORDS = r" ,.;:?!\[\]-"
_IN_PATTERNS = {
    "^": f"(?<![^{_BETWEEN_WORDS}])",
    "$": f"(?![^{_BETWEEN_WORDS}])",
    "_": f"(?<=[^{_BETWEEN_WORDS}])",
    "C": "[bcdfgklmnprstvz]",
}


def pronounce(words: Sequence[str], voice: EspeakVoice) -> dict[str, list[str]]:
    """Each word's phonemes, all of PHONEMES, as espeak-ng says them within a sentence."""
    before, behind = _CARRIER
    place = len(before.split())
    said = EspeakLibrary().phonemes([f"{before} {word} {behind}" for word in words], voice)
    found = {}
    for word, line in zip(words, said, strict=True):
        parts = line.replace("ˌ", "").split(" ")
        if len(parts) == place + 2:
            phonemes = [each.replace("ːː", "ː") for each in parts[place].split("_") if each]
            if phonemes and all(each in _SYMBOLS for each in phonemes):
                found[word] = phonemes
    return found


def build_tokenizer(lexicon: Mapping[str, Sequence[str]]) -> Any:
    """A token for each frame that is to be said. lexicon: lower-case words and their phonemes.

    Digits are read one by one, but for the speaker's number at the beginning of a text.
    """
    table = {character: number for number, character in enumerate(ALPHABET)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=table, merges=[]))
    steps: list[Any] = [
        normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
        normalizers.Replace(Regex("[’‘`]"), "'"), normalizers.Replace(Regex("[–—]"), ", "),
        normalizers.Replace("&", " and "), normalizers.Replace("%", " percent "),
    ]  # fmt: skip
    for digit, word in enumerate(_DIGITS):
        steps.append(normalizers.Replace(Regex(rf"(?<!^\[)(?<!^\[\d){digit}"), f" {word} "))
    steps.append(normalizers.Replace(Regex(r"[^a-z' ,.;:?!\[\]0-9-]|(?<!^)\[|(?<!^\[\d)(?<!^\[\d\d)\]"), " "))
    steps.append(normalizers.Replace(Regex("(?<![a-z])'+|'+(?![a-z])"), ""))
    known = sorted(lexicon, key=lambda each: "'" not in each)  # "don't" before "don"
    steps += [normalizers.Replace(Regex(rf"\b{re.escape(word)}\b"), _written(lexicon[word])) for word in known]
    steps += [normalizers.Replace(Regex(_pattern(rule)), _written(said.split())) for rule, said in _RULES]
    steps.append(normalizers.Replace(Regex("[ -]+"), ""))
    steps.append(normalizers.Replace(Regex(f"(?<=[{MARKS}])[{MARKS}]+"), ""))
    steps += [
        normalizers.Replace(Regex(rf"(?<=\]{_UNCOUNTED}{{{number}}})\z"), symbol) for number, symbol in COUNTS.items()
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    begin = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


def read_back(tokens: Sequence[str]) -> str:
    """The tokens' names with phonemes in IPA: what a text is read as, for people."""
    names = {symbol: phoneme for phoneme, symbol in _SYMBOLS.items()}
    return "".join(names.get(token, token) for token in tokens)


def _pattern(rule: str) -> str:
    """A rule's pattern as a regular expression."""
    return "".join(_IN_PATTERNS.get(character, character) for character in rule)


def frames_of(phonemes: Sequence[str]) -> int:
    """How long a word of these lasts, which is how many tokens it has."""
    return len(_written(phonemes))


def _written(phonemes: Sequence[str]) -> str:
    return "".join(_SYMBOLS[phoneme] * (2 if phoneme in _LONG else 1) for phoneme in phonemes)
