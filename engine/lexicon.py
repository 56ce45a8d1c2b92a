"""Pronunciation lexicon: words, and what is said in their place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from .errors import InvalidRequest

MAX_WORD, MAX_REPLACEMENT = 100, 500  # characters

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class _Entry:
    """lead: what is written before the first letter, such as the dot of ".NET"."""

    words: str  # with single spaces between them
    lead: str
    replacement: str

    @property
    def exact(self) -> bool:
        return self.words != self.words.lower()

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The words after the lead. Compiled when a text first has their first word: a lexicon may be large."""
        words = r"\s+".join(map(re.escape, self.words[len(self.lead) :].split(" ")))
        return re.compile(rf"{words}(?!\w)", 0 if self.exact else re.IGNORECASE)


class Lexicon:
    """Replaces whole words, of one or several words each.

    An entry in lower case stands for its word in any case ("sql" for "SQL", too); one with a capital letter for exactly
    what it says ("US", not "us"). Exact entries come first, then longer ones. Replacements are not replaced again.

    base: entries that these are added to; equal words of `base` are overridden.
    Raises InvalidRequest for an entry that cannot be used.
    """

    def __init__(self, entries: Mapping[str, str], base: Lexicon | None = None) -> None:
        self.entries: dict[str, str] = {**(base.entries if base else {}), **entries}
        self._index: dict[str, list[_Entry]] = dict(base._index) if base else {}
        own: dict[str, list[_Entry]] = {}
        for word, replacement in entries.items():
            entry, first = _entry(word, replacement)
            own.setdefault(first, []).append(entry)
        for first, added in own.items():
            overridden = {each.words for each in added}
            kept = [each for each in self._index.get(first, ()) if each.words not in overridden]
            self._index[first] = sorted([*kept, *added], key=lambda each: (not each.exact, -len(each.words)))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lexicon) and self.entries == other.entries

    __hash__ = None  # type: ignore[assignment]  # compared by content, and not meant as a key

    def apply(self, text: str) -> str:
        """The text with every word of the lexicon replaced, in linear time."""
        if not self._index:
            return text
        parts: list[str] = []
        done = 0
        for found in _WORD.finditer(text):
            if found.start() < done:
                continue  # inside what was replaced
            for entry in self._index.get(found[0].lower(), ()):
                start = found.start() - len(entry.lead)
                if start < done or not text.startswith(entry.lead, start):
                    continue
                if entry.lead and start and _WORD.match(text[start - 1]):
                    continue  # ".NET" is not the end of "ASP.NET"
                if match := entry.pattern.match(text, found.start()):
                    parts += [text[done:start], entry.replacement]
                    done = match.end()
                    break
        return "".join([*parts, text[done:]]) if parts else text


def _entry(word: str, replacement: str) -> tuple[_Entry, str]:
    """The entry, and its first word in lower case."""
    words, shown = " ".join(word.split()), word[:40]
    found = _WORD.search(words)
    if found is None or len(words) > MAX_WORD:
        raise InvalidRequest(
            f"lexicon: {shown!r} cannot be replaced: an entry is 1 to {MAX_WORD} characters with a letter or a digit"
        )
    replacement = replacement.strip()
    if not any(map(str.isalnum, replacement)) or len(replacement) > MAX_REPLACEMENT or "\n" in replacement:
        raise InvalidRequest(
            f"lexicon: the replacement of {shown!r} must be one line of 1 to {MAX_REPLACEMENT} characters with a "
            f"letter or a digit, not {replacement[:40]!r}"
        )
    return _Entry(words, words[: found.start()], replacement), found[0].lower()


def parse_lexicon(lines: Iterable[str]) -> dict[str, str]:
    """The entries of a file with `word = replacement` on each line; lines that are empty or begin with # are skipped.

    Raises InvalidRequest, which names the line.
    """
    entries: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        word, equals, replacement = (part.strip() for part in line.partition("="))
        if not equals:
            raise InvalidRequest(f"line {number}: {line[:40]!r} must be written as word = replacement")
        try:
            _entry(word, replacement)
        except InvalidRequest as error:
            raise InvalidRequest(f"line {number}: {error}") from None
        entries[word] = replacement
    return entries
