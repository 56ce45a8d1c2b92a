"""Text as people write it -> text as it is said, in English: numbers, dates, abbreviations, addresses, markup.

    "Dr. Lee paid $3.5 million on 5/12/2024." ->
    "Doctor Lee paid three point five million dollars on May twelfth, twenty twenty-four."

Lines in other languages only lose their markup. No torch; libraries load with the first text that needs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .abbreviations import ABBREVIATIONS, DOTTED, ROMANS, acronyms, letters_and_digits
from .addresses import RULES as ADDRESSES
from .amounts import AMOUNTS, ARITHMETIC, PLAIN_NUMBERS
from .dates import RULES as DATES
from .languages import is_english
from .markup import plain_text
from .rules import Rule, apply_all
from .splitting import raw_cut

WINDOW = 1000  # characters that are looked at together, so that long texts take linear time
_PASSES = 12  # nested markup comes off layer by layer; most texts need one, and one that finds nothing

# A line of these alone is said as it stands.
_PLAIN = re.compile(
    r"(?:(?<![A-Za-z])(?:[A-Z]?[a-z]++|[AI](?![A-Za-z]))|(?<=[a-z])['-](?=[a-z])|[,;:]?\s|(?<=[A-Za-z])[.!?](?=\s|$))*+"
)
# A line of these alone is said as it stands once the rules have been applied: they make single letters of acronyms.
_SETTLED = re.compile(_PLAIN.pattern.replace("[AI]", "[A-Z]"))
_MAY_ABBREVIATE = re.compile(rf"\b(?:{DOTTED})\.|\b(?:Dr|Mrs?|Ms|Prof|St|vs|etc)\b")
_DIGIT = re.compile(r"\d")

_QUOTES = str.maketrans(
    {**dict.fromkeys("‘’‚‛′＇´`", "'"), **dict.fromkeys("“”„‟«»″", '"'), "…": "...", "‐": "-", "‑": "-"}
)
_DASHES = (
    Rule(r"''+", '"', "''"),
    Rule(r"(?<!\d)\s[–—―-]{1,3}\s|(?<=\d)\s[—―]\s|\s[–—―-]{1,3}\s(?!\d)", ", ", ("-", "–", "—", "―")),
    Rule(r"\s?-{2,}\s?", ", ", "--"),
    Rule(r"\s?[—―⸺]\s?", ", ", ("—", "―", "⸺")),
    Rule(r"(?<!\d)(?<!\d\s)\s?–\s?|–(?!\s?[\d$€£])", ", ", "–"),
)
_EMOTICONS = Rule(r"(?<!\S)(?:[:;=8]['’]?-?[()DPp/\\|*oO]|<3|[xX]D|\^_*\^)(?=\s|[.,!?]|$)", "")
_CURRENCIES = {"$": "dollars", "€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees"}
_OR = "s?he|[Hh]e|[Ss]he|[Hh]is|[Hh]ers?|him|himself|herself|they|yes|no|true|false|on|off|mom|dad|Mr|Mrs|Ms"
_SYMBOLS = (
    Rule(r"(?<=\w)&(?=\w)|\s?&\s?", " and ", "&"),
    Rule(r"\s?©\s?", " copyright ", "©"),
    Rule(r"[®™℠†‡]", "", tuple("®™℠†‡")),
    Rule(r"§§?\s?", "section ", "§"),
    Rule(r"¶\s?", "paragraph ", "¶"),
    Rule(r"(?<=\w) ?@ ?(?=\w)|(?<!\w)@ ?", " at ", "@"),
    Rule(rf"\b({_OR})/({_OR})\b", r"\1 or \2", "/"),
    Rule(r"(?<![\w/.])([A-Z]{1,5})/(?=[A-Z]{1,5}(?![\w/]))", r"\1 ", "/"),  # "CI/CD"
    Rule(r"(?<=[A-Z] [A-Z])/(?=[A-Z] [A-Z]\b)", " ", "/"),  # the same, spelled
    Rule(r"(?<=\w)/(?=\w)", " slash ", "/"),
    Rule(r"\s?%", " percent", "%"),
    Rule(r"\s?°", " degrees", "°"),
    Rule(r"[$€£¥₹](?=\s|$|\W)", lambda found: f" {_CURRENCIES[found[0]]} "),
    Rule(r"[*_~^|\\`#{}<>=•·●▪◦■□◆/$€£¥₹₩₽₿₺₫₪₴¢]+", " "),
    Rule(r"(?<!\w)\+(?!\w)", " plus ", "+"),
)
_PUNCTUATION = (
    Rule(r"\?[?!]*\?[?!]*|![?!]*\?[?!]*|\?!+", "?", "?"),
    Rule(r"!{2,}", "!", "!"),
    Rule(r"\.{3,}", "...", "."),
    Rule(r"(?<!\.)\.\.(?!\.)", ".", "."),
    Rule(r"(?:\s*,)+(?=\s*[.,;:!?])(?!\s*\.\.)", "", ","),
    Rule(r"([;:!?])(?:\s?,)+", r"\1", ","),
    Rule(r";{2,}", ";", ";"),
    Rule(r"\(\s*\)|\[\s*\]|\"\s*\"", "", ""),
    Rule(r"[ ]+(?=[,;:!?](?:\s|$)|\.(?:\s|$))", ""),
    Rule(r"^[ ,;]+", ""),
    Rule(r" {2,}", " ", "  "),
)

_WITH_DIGITS = (_EMOTICONS, *ADDRESSES, *DATES, *AMOUNTS, *ABBREVIATIONS, *ROMANS)
_WITHOUT_DIGITS = (_EMOTICONS, *ADDRESSES, *ARITHMETIC, *ABBREVIATIONS, *ROMANS)
_WORDS = re.compile("[^\\W_]+(?:['’][^\\W_]+)*|[\U000f0000-\U000ffffd]+")


def normalize(text: str) -> str:
    """The text as it is said, in linear time. Twice is the same as once; a text without words becomes ""."""
    return "".join(map(normalize_window, windows(text))).strip()


def windows(text: str) -> Iterator[str]:
    """The text in order, at most WINDOW characters each, cut where each part is said as in the whole."""
    at = 0
    while len(text) - at > WINDOW:
        end = raw_cut(text, at + WINDOW // 2, at + WINDOW)
        yield text[at:end]
        at = end
    yield text[at:]


def has_words(text: str) -> bool:
    return _WORDS.search(text) is not None


def normalize_window(text: str) -> str:
    """A part of a text as it is said, with one character of the white space around it."""
    before, spoken = text, _one_pass(text)
    for _ in range(_PASSES - 1):
        if spoken == before:
            break
        before, spoken = spoken, _one_pass(spoken, _SETTLED)
    if not has_words(spoken) and has_words(text):
        spoken = _one_pass(" ".join(_WORDS.findall(text)))
    head, tail = (
        (text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]) if has_words(spoken) else ("", " ")
    )
    return f"{head and head[0]}{spoken.strip() if has_words(spoken) else ''}{tail and tail[0]}"


def _one_pass(text: str, plain: re.Pattern[str] = _PLAIN) -> str:
    return "\n".join(_line(line, plain) for line in plain_text(text).split("\n"))


def _line(line: str, plain: re.Pattern[str]) -> str:
    line = line.strip()
    if not line or (plain.fullmatch(line) and not _MAY_ABBREVIATE.search(line)):
        return " ".join(line.split())
    if not is_english(line):
        return line
    line = apply_all(_DASHES, line.translate(_QUOTES))
    if _DIGIT.search(line) or not line.isascii():
        line = apply_all(_WITH_DIGITS, line)
        line = apply_all(PLAIN_NUMBERS, letters_and_digits(acronyms(line)))
    else:
        line = acronyms(apply_all(_WITHOUT_DIGITS, line))
    return apply_all(_PUNCTUATION, apply_all(_SYMBOLS, line)).strip()
