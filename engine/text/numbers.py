"""Numbers in words, in American English. CLDR's spell-out rules (unicode-rbnf) give the words of each three digits."""

from __future__ import annotations

from functools import cache
from typing import Any

# A number as it is written, with separators of thousands or without, and its boundaries.
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
START = r"(?<![\w.,])"
END = r"(?!\w|[.,]\d)"

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LONGEST = 15  # digits; longer numbers are read digit by digit


def cardinal(number: int) -> str:
    """12345 -> "twelve thousand three hundred forty-five". The number is below 10**18."""
    groups = []
    rest, power = number, 0
    while rest:
        rest, group = divmod(rest, 1000)
        if group:
            groups.append(f"{_below_thousand(group)} {_scale(power)}".rstrip())
        power += 1
    return " ".join(reversed(groups)) or _DIGITS[0]


def ordinal(number: int) -> str:
    """21 -> "twenty-first"."""
    last = number % 1000
    if number and not last:
        return f"{cardinal(number)}th"
    return (
        f"{cardinal(number - last)} {_ordinal_below_thousand(last)}" if number > last else _ordinal_below_thousand(last)
    )


def digits(text: str) -> str:
    """ "0123" -> "zero one two three"; what is not a digit is left out."""
    return " ".join(_DIGITS[int(character)] for character in text if "0" <= character <= "9")


def number(text: str) -> str:
    """A match of NUMBER in words. Digit by digit where it starts with 0 or is very long."""
    whole, _, decimals = text.replace(",", "").partition(".")
    by_digits = len(whole) > _LONGEST or (len(whole) > 1 and whole[0] == "0")
    spoken = digits(whole) if by_digits else cardinal(int(whole))
    return f"{spoken} point {digits(decimals)}" if decimals else spoken


def year(number: int) -> str:
    """1999 -> "nineteen ninety-nine", 2005 -> "two thousand five"; for years from 1100 to 2099."""
    century, rest = divmod(number, 100)
    if not rest:
        return f"{cardinal(century)} hundred" if century % 10 else cardinal(number)
    if rest < 10:
        return cardinal(number) if century % 10 == 0 else f"{cardinal(century)} oh {cardinal(rest)}"
    return f"{cardinal(century)} {cardinal(rest)}"


def is_year(text: str) -> bool:
    return len(text) == 4 and text.isascii() and text.isdigit() and 1100 <= int(text) <= 2099


def plural(words: str) -> str:
    """ "ninety" -> "nineties"."""
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return f"{words}es" if words.endswith(("s", "x")) else f"{words}s"


@cache
def _engine() -> Any:
    from unicode_rbnf import RbnfEngine  # half a second: loaded with the first text that needs it

    return RbnfEngine.for_language("en")


@cache
def _below_thousand(number: int) -> str:
    return str(_engine().format_number(number).text)


@cache
def _ordinal_below_thousand(number: int) -> str:
    from unicode_rbnf import FormatPurpose

    return str(_engine().format_number(number, FormatPurpose.ORDINAL).text)


@cache
def _scale(power: int) -> str:
    """The word for 1000**power; "" for power 0."""
    return str(_engine().format_number(1000**power).text).partition(" ")[2] if power else ""
