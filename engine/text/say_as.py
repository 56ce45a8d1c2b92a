"""`<say-as>` of SSML: how a text inside it is said."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import InvalidMarkup
from .dates import spoken_date
from .normalization import normalize
from .numbers import cardinal, digits, ordinal

_SIGNS = {".": "dot", ",": "comma", "-": "dash", "_": "underscore", "@": "at", "/": "slash", ":": "colon", "+": "plus",
          "#": "hash", "&": "and", "*": "star", "%": "percent", "$": "dollar", "=": "equals", "?": "question mark",
          "!": "exclamation mark"}  # fmt: skip
_LONGEST = 15  # digits of a number
_FORMATS = ("mdy", "dmy", "ymd", "md", "dm", "ym", "my", "d", "m", "y")


def _characters(text: str, _: str) -> str:
    words = (
        _SIGNS.get(each) or (digits(each) if each.isascii() and each.isdigit() else each.upper())
        for each in text
        if not each.isspace()
    )
    return " ".join(words)


def _digits(text: str, _: str) -> str:
    return digits(text)


def _whole(text: str) -> int | None:
    """The number that a text is; None if it is none."""
    number = text.replace(",", "").replace(" ", "")
    return int(number) if re.fullmatch(rf"[-+]?[0-9]{{1,{_LONGEST}}}", number) else None


def _cardinal(text: str, _: str) -> str:
    number = _whole(text)
    if number is None:
        return normalize(text)
    return f"minus {cardinal(-number)}" if number < 0 else cardinal(number)


def _ordinal(text: str, _: str) -> str:
    number = _whole(re.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", text))
    return normalize(text) if number is None or number < 0 else ordinal(number)


def _telephone(text: str, _: str) -> str:
    groups = [digits(group) for group in re.findall(r"\d+", text)]
    return ("plus " if text.startswith("+") else "") + ", ".join(groups)


def _date(text: str, written: str) -> str:
    """written: the order of the parts, as in `format="dmy"`."""
    if not written:
        return normalize(text)
    if written not in _FORMATS:
        raise InvalidMarkup(
            f"<say-as interpret-as='date' format={written[:20]!r}>: format must be one of {', '.join(_FORMATS)}"
        )
    parts = re.findall(r"\d+", text)
    if len(parts) != len(written):
        return normalize(text)
    values = dict(zip(written, parts, strict=True))
    return spoken_date(values.get("y"), values.get("m"), values.get("d")) or normalize(text)


def _normalized(text: str, _: str) -> str:
    return normalize(text)


_KINDS: dict[str, Callable[[str, str], str]] = {
    "characters": _characters,
    "spell-out": _characters,
    "verbatim": _characters,
    "digits": _digits,
    "cardinal": _cardinal,
    "number": _cardinal,
    "ordinal": _ordinal,
    "telephone": _telephone,
    "date": _date,
    "time": _normalized,
    "fraction": _normalized,
    "unit": _normalized,
    "currency": _normalized,
    "address": _normalized,
}


def say_as(text: str, kind: str, written: str = "") -> str:
    """The text as it is said. kind: `interpret-as`; written: `format`. Raises InvalidMarkup for an unknown one."""
    say = _KINDS.get(kind)
    if say is None:
        raise InvalidMarkup(f"<say-as interpret-as={kind[:40]!r}> is not supported: use one of {', '.join(_KINDS)}")
    return say(" ".join(text.split()), written.lower())
