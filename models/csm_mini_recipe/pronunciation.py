"""A phoneme tokenizer, so that the model need not learn English spelling from a few hours of speech.

A token is a frame: 80 ms of a phoneme (long ones have two tokens), or of silence at a punctuation mark. A count token
for their number ends the text (alignment_init.py says why).

All of it is in `tokenizer.json`: a lexicon with espeak-ng's phonemes, and letter-to-sound rules for other words.
Reading the file needs neither espeak-ng nor this module.
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

# Vowels with and without primary stress; espeak-ng's secondary stress is dropped.
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
_SYMBOLS = {phoneme: chr(0xE000 + number) for number, phoneme in enumerate(PHONEMES)}  # one private-use character each
PUNCTUATION = ",.;:?!"  # one frame of silence each
COUNT_TOKENS = {number: chr(0xE800 + number) for number in range(1, 301)}  # ends a text of that many frames
_NOT_COUNT = f"[^\\]{COUNT_TOKENS[1]}-{COUNT_TOKENS[len(COUNT_TOKENS)]}]"
FRAME_TOKENS = "".join(_SYMBOLS.values()) + PUNCTUATION  # one frame each
# Digits occur only in the speaker's brackets.
ALPHABET = FRAME_TOKENS + "[]0123456789" + "".join(COUNT_TOKENS.values())

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_CARRIER_SENTENCE = ("they say", "then")  # a carrier sentence: words alone are pronounced like headings

# Letter-to-sound rules for words not in the lexicon, applied in order: pattern, phonemes.
# `^` and `$` match a word's beginning and end, `_` any position after its first letter, C a consonant letter.
_LETTER_RULES = (
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
_WORD_SEPARATORS = r" ,.;:?!\[\]-"
_PATTERN_SYMBOLS = {
    "^": f"(?<![^{_WORD_SEPARATORS}])",
    "$": f"(?![^{_WORD_SEPARATORS}])",
    "_": f"(?<=[^{_WORD_SEPARATORS}])",
    "C": "[bcdfgklmnprstvz]",
}


def pronounce(words: Sequence[str], voice: EspeakVoice) -> dict[str, list[str]]:
    """Phonemes of each word, all in PHONEMES, as espeak-ng pronounces it within a sentence."""
    before, after = _CARRIER_SENTENCE
    place = len(before.split())
    spoken = EspeakLibrary().phonemes([f"{before} {word} {after}" for word in words], voice)
    found = {}
    for word, line in zip(words, spoken, strict=True):
        parts = line.replace("ˌ", "").split(" ")
        if len(parts) == place + 2:
            phonemes = [each.replace("ːː", "ː") for each in parts[place].split("_") if each]
            if phonemes and all(each in _SYMBOLS for each in phonemes):
                found[word] = phonemes
    return found


def build_tokenizer(lexicon: Mapping[str, Sequence[str]]) -> Any:
    """Build the tokenizer, one token per frame. lexicon: lower-case words -> phonemes.

    Digits are read one by one, except in the speaker's number at the beginning of a text.
    """
    vocabulary = {character: number for number, character in enumerate(ALPHABET)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    steps: list[Any] = [
        normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
        normalizers.Replace(Regex("[’‘`]"), "'"), normalizers.Replace(Regex("[–—]"), ", "),
        normalizers.Replace("&", " and "), normalizers.Replace("%", " percent "),
    ]  # fmt: skip
    for digit, word in enumerate(_DIGITS):
        steps.append(normalizers.Replace(Regex(rf"(?<!^\[)(?<!^\[\d){digit}"), f" {word} "))
    steps.append(normalizers.Replace(Regex(r"[^a-z' ,.;:?!\[\]0-9-]|(?<!^)\[|(?<!^\[\d)(?<!^\[\d\d)\]"), " "))
    steps.append(normalizers.Replace(Regex("(?<![a-z])'+|'+(?![a-z])"), ""))
    words = sorted(lexicon, key=lambda each: "'" not in each)  # "don't" before "don"
    steps += [normalizers.Replace(Regex(rf"\b{re.escape(word)}\b"), _frame_symbols(lexicon[word])) for word in words]
    steps += [
        normalizers.Replace(Regex(_to_regex(rule)), _frame_symbols(spoken.split())) for rule, spoken in _LETTER_RULES
    ]
    steps.append(normalizers.Replace(Regex("[ -]+"), ""))
    steps.append(normalizers.Replace(Regex(f"(?<=[{PUNCTUATION}])[{PUNCTUATION}]+"), ""))
    steps += [
        normalizers.Replace(Regex(rf"(?<=\]{_NOT_COUNT}{{{number}}})\z"), symbol)
        for number, symbol in COUNT_TOKENS.items()
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


def to_ipa(tokens: Sequence[str]) -> str:
    """Convert token names to IPA, for display."""
    names = {symbol: phoneme for phoneme, symbol in _SYMBOLS.items()}
    return "".join(names.get(token, token) for token in tokens)


def _to_regex(rule: str) -> str:
    """Convert a rule's pattern to a regular expression."""
    return "".join(_PATTERN_SYMBOLS.get(character, character) for character in rule)


def frame_count(phonemes: Sequence[str]) -> int:
    """Duration of a word in frames, which is its number of tokens."""
    return len(_frame_symbols(phonemes))


def _frame_symbols(phonemes: Sequence[str]) -> str:
    return "".join(_SYMBOLS[phoneme] * (2 if phoneme in _LONG else 1) for phoneme in phonemes)
