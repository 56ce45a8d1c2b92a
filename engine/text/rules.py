"""A rule of text normalisation: a pattern, and what a match of it is said as."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

# Words that start a sentence far more often than they are part of a name.
_STARTERS = (
    "The|A|An|It|Its|He|She|They|We|I|You|This|That|These|Those|There|Then|But|And|So|Or|In|On|At|As|If|When|Where|What"
    "|Who|Why|How|However|Now|Not|No|Yes|For|From|With|His|Her|Their|Our|My|Your"
)
_STARTS = re.compile(rf"\s+(?:{_STARTERS})\b")
_CAPITAL = re.compile(r"[\"'”’)\]]*(?:\s+[\"'“‘(]?[A-Z]|\s*$)")
_ARTICLE = re.compile(r"\b[Aa]n? $")
_END = re.compile(r"[\"'”’)\]]*\s*$")


@dataclass(frozen=True)
class Rule:
    """needs: texts, such as a character, without any of which there is no match; they save the search."""

    pattern: str
    spoken: Callable[[re.Match[str]], str] | str
    needs: str | tuple[str, ...] = ()
    _compiled: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", re.compile(self.pattern))
        if isinstance(self.needs, str):
            object.__setattr__(self, "needs", (self.needs,))

    def apply(self, text: str) -> str:
        needs = self.needs
        if needs:
            for each in needs:
                if each in text:
                    break
            else:
                return text
        return self._compiled.sub(self.spoken, text)


def apply_all(rules: Iterable[Rule], text: str) -> str:
    for rule in rules:
        text = rule.apply(text)
    return text


def after_article(found: re.Match[str]) -> bool:
    """Whether "a" or "an" is before the match, so that its unit is singular: "a 60 W bulb"."""
    return _ARTICLE.search(found.string, max(found.start() - 4, 0), found.start()) is not None


def sentence_dot(found: re.Match[str], *, before_names: bool = False) -> str:
    """The dot of an abbreviation, if it ends the sentence, too.

    before_names: a capital letter may follow within the sentence ("U.S. Army"), so only a word that starts sentences
    shows that one ended.
    """
    text, at = found.string, found.end()
    if _END.match(text, at) or (_STARTS if before_names else _CAPITAL).match(text, at):
        return "."
    return ""
