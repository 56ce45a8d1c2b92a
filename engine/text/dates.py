"""Dates and times as they are said: "2024-03-15" -> "March fifteenth, twenty twenty-four"."""

from __future__ import annotations

import re

from .numbers import cardinal, is_year, number, ordinal, plural, year
from .rules import Rule, sentence_dot

_NAMES = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_MONTH = (
    r"(January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_MONTHS = tuple(name[:3] for name in _NAMES)
_DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?(?![\w:/.,-]*\d)"
_YEAR = r"(\d{4})(?![\w/-]|[.,]\d)"
_AM_PM = r"\s?([AaPp])(?:\.\s?[Mm]\.|[Mm]\b)"
_CLOCK = r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?![\d:])"


def _month(name: str) -> str:
    return next(each for each in _NAMES if each.startswith(name[:3]))


def _spoken_year(text: str) -> str:
    return year(int(text)) if is_year(text) else number(text)


def _date(month: int, day: int, year_: str, written: str) -> str:
    """Month and day in words; as it was written if there is no such date."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return written
    return f"{_NAMES[month - 1]} {ordinal(day)}, {_spoken_year(year_)}"


def spoken_date(year_: str | None, month: str | None, day: str | None) -> str | None:
    """The parts of a date that are given, in words; None if there is no such date."""
    if (month and not 1 <= int(month) <= 12) or (day and not 1 <= int(day) <= 31):
        return None
    name = _NAMES[int(month) - 1] if month else ""
    day_of_month = f"{name} {ordinal(int(day))}".strip() if day else name
    return f"{day_of_month}{', ' if day and year_ else ' '}{_spoken_year(year_) if year_ else ''}".strip()


def _iso(found: re.Match[str]) -> str:
    spoken = _date(int(found[2]), int(found[3]), found[1], found[0])
    return spoken + " at " if found[4] and spoken != found[0] else spoken


def _numeric(found: re.Match[str]) -> str:
    """Month first with slashes, as Americans write, unless that is no month; day first with dots and hyphens."""
    first, second, text = int(found[1]), int(found[3]), found[4]
    if len(text) == 2:
        text = f"{'20' if int(text) < 50 else '19'}{text}"
    month_first = found[2] == "/" and first <= 12
    return _date(*((first, second) if month_first else (second, first)), text, found[0])


def _month_day(found: re.Match[str]) -> str:
    if not 1 <= int(found[2]) <= 31:
        return found[0]
    year_ = found[3]
    return f"{_month(found[1])} {ordinal(int(found[2]))}" + (f", {_spoken_year(year_)}" if year_ else "")


def _day_month(found: re.Match[str]) -> str:
    if not 1 <= int(found[2]) <= 31:
        return found[0]
    the = "" if found[1] else "the "
    year_ = f", {_spoken_year(found[4])}" if found[4] else sentence_dot(found) if found[3].endswith(".") else ""
    return f"{found[1] or ''}{the}{ordinal(int(found[2]))} of {_month(found[3])}{year_}"


def _decade(found: re.Match[str]) -> str:
    century, tens = found[1] or "", int(found[2])
    if not tens:
        return f"{plural(year(int(century + '00')))}" if century else found[0]
    return f"{cardinal(int(century))} {plural(cardinal(tens))}" if century else plural(cardinal(tens))


def clock(hour: str, minute: str | None, second: str | None = None, half: str | None = None) -> str:
    """("3", "05", None, "p") -> "three oh five P M"."""
    words = [cardinal(int(hour))]
    if minute is not None and int(minute):
        words.append(f"oh {cardinal(int(minute))}" if minute[0] == "0" else cardinal(int(minute)))
    elif not half:
        if int(hour) in range(1, 13):
            words.append("o'clock")
        else:
            words.append("hundred" if int(hour) else "o'clock")
    if second is not None and int(second):
        words.append(f"and {cardinal(int(second))} second{'' if int(second) == 1 else 's'}")
    if half:
        words.append(f"{half.upper()} M")
    return " ".join(words)


def _half(found: re.Match[str]) -> str:
    """The sentence's dot behind "a.m.", which has one dot for both."""
    return sentence_dot(found) if found[0].endswith(".") else ""


def _time(found: re.Match[str]) -> str:
    if int(found[1]) > 24:
        return found[0]
    return clock(found[1], found[2], found[3], found[4]) + _half(found)


def _hour(found: re.Match[str]) -> str:
    return clock(found[1], None, None, found[2]) + _half(found) if 1 <= int(found[1]) <= 12 else found[0]


def _ratio(found: re.Match[str]) -> str:
    return f"{number(found[1])} to {number(found[2])}"


def _time_range(found: re.Match[str]) -> str:
    if max(int(found[1]), int(found[3])) > 24 or (found[2] is None and found[4] is None and not found[5]):
        return found[0]
    half = found[5]
    first = f"{clock(found[1], found[2], None, half if found[2] is None else None)}"
    if half and found[2] is None:
        first = first.removesuffix(f" {half.upper()} M")
    elif half and found[2] == "00":
        first = cardinal(int(found[1]))
    return f"{first} to {clock(found[3], found[4], None, half)}" + _half(found)


_NOT_IN_A_NUMBER = r"(?<![\w.,:/-])"
RULES = (
    Rule(r"(?:(?<=\d[ap]m)|(?<=\d [ap]m)|(?<=\d[AP]M)|(?<=\d [AP]M)|(?<=[ap]\.m\.))\s?[-–]\s?(?=\d)", " to "),
    Rule(r"(?<![\w/.-])(\d{4})-(\d\d)-(\d\d)(?:(T(?=\d\d:))|(?![\w/-]))", _iso, "-"),
    Rule(rf"{_NOT_IN_A_NUMBER}(\d\d?)(/)(\d\d?)/(\d{{4}}|\d\d)(?![\w/-]|[.,]\d)", _numeric, "/"),
    Rule(rf"{_NOT_IN_A_NUMBER}(\d\d?)([.-])(\d\d?)\2(\d{{4}})(?![\w/-]|[.,]\d)", _numeric),
    Rule(
        rf"\b({'|'.join(_DAYS)})\b\.?(?=,? (?:the )?(?:\d|(?:{_MONTH[1:-1]}) \d))",
        lambda found: _DAYS[found[1]],
    ),
    Rule(rf"\b{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?,? {_YEAR}", _month_day, _MONTHS),
    Rule(rf"(?<!\w){_MONTH} {_DAY}()", _month_day, _MONTHS),
    Rule(
        rf"{_NOT_IN_A_NUMBER}(the )?(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?!\w)(?:,? {_YEAR})?",
        _day_month,
        _MONTHS,
    ),
    Rule(
        rf"\b{_MONTH},? {_YEAR}",
        lambda found: f"{_month(found[1])} {_spoken_year(found[2])}",
        _MONTHS,
    ),
    Rule(r"(?<![\w.,-])(1[1-9]|20)(\d0)['’]?s\b", _decade, "0"),
    Rule(r"(?:(?<=the )|(?<=early )|(?<=late )|(?<=mid[ -]))['’]?()([2-9]0)['’]?s\b", _decade, "0"),
    Rule(r"(?<![\w'’])['’]()([2-9]0)s\b", _decade, "0"),
    Rule(
        rf"{_NOT_IN_A_NUMBER}(\d\d?)(?::([0-5]\d))?\s?[-–]\s?(\d\d?)(?::([0-5]\d))?(?:{_AM_PM}|(?![\w:/-]|[.,]\d|\s?[AaPp]\.?[Mm]))",
        _time_range,
    ),
    Rule(rf"(?:(?<![\w.,:/-])|(?<=[a-z] at ))(?<![\d]){_CLOCK}(?:{_AM_PM}|Z\b)?", _time, ":"),
    Rule(rf"{_NOT_IN_A_NUMBER}(\d\d?){_AM_PM}", _hour),
    Rule(rf"{_NOT_IN_A_NUMBER}(\d{{1,4}}):(\d{{1,4}})(?![\w:]|[.,]\d)", _ratio, ":"),
    Rule(
        r"\b((?:[Ii]n|[Ss]ince|[Bb]y|[Ff]rom|[Uu]ntil|[Oo]f|[Dd]uring|[Bb]efore|[Aa]fter|[Yy]ear|[Cc]irca|[Ee]arly|[Ll]ate"
        r"|[Mm]id|[Ss]pring|[Ss]ummer|[Ff]all|[Aa]utumn|[Ww]inter|[Aa]nd|[Tt]o) )(\d{4})(?![\w-]|[.,]\d|\s[a-z]*%)",
        lambda found: found[1] + _spoken_year(found[2]),
    ),
    Rule(
        r"(?<![\w.,$-])(\d{1,4})(?= (?:BC|AD|BCE|CE)\b)",
        lambda found: _spoken_year(found[1]),
    ),
    Rule(r"(?<![\w.,$£€#-])(19\d\d|20\d\d)(?!\w|[.,]\d|[-/%°]|\s?[%°€£])", lambda found: _spoken_year(found[1])),
)
