"""Cuts a text that is still being written into clauses that can be spoken. Pure."""

from __future__ import annotations

import re

from engine import has_words, sentences_end

# A mark ends a clause only once white space follows: "3," may become "3,5" with the next character.
_END = re.compile(r"""[.!?…,;:—–]+["'”’)\]]*(?=\s)|\s[-–—](?=\s)|[。！？｡，；：、]["'”’」』）]*|\n""")
_FIRST_CHARACTERS = 8  # of the first clause, at least: shorter ones sound cut off
_CHARACTERS = 40  # of a later clause that is no sentence


class ClauseSplitter:
    """Its clauses joined are the text.

    The first clause is short, so that speech begins soon; later ones are sentences, or long parts of one.
    limit: characters of a clause.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._text = ""
        self._least = _FIRST_CHARACTERS

    def push(self, text: str) -> list[str]:
        """Add text. Returns the clauses that are complete."""
        self._text += text
        clauses = []
        while end := self._end():
            clauses.append(self._text[:end])
            self._text = self._text[end:]
            self._least = _CHARACTERS
        return clauses

    def flush(self) -> str:
        """The rest of the text."""
        rest, self._text = self._text, ""
        return rest

    def _end(self) -> int:
        """Index after the next clause; 0 if none is complete."""
        ends = [match.end() for match in _END.finditer(self._text) if has_words(self._text[: match.end()])]
        for end in ends:
            if end <= self._limit and (self._ends_sentence(end) or (end >= self._least and self._ends_clause(end))):
                return end
        if len(self._text) <= self._limit:
            return 0
        within = [end for end in ends if end <= self._limit and self._ends_clause(end)]
        return within[-1] if within else (self._text.rfind(" ", 1, self._limit) + 1) or self._limit

    def _ends_sentence(self, end: int) -> bool:
        return sentences_end(self._text[:end] + " ") == end

    def _ends_clause(self, end: int) -> bool:
        """Not after an abbreviation such as "Dr."."""
        return not self._text[:end].rstrip("\"'”’)]").endswith((".", "!", "?", "…")) or self._ends_sentence(end)
