"""Where the characters that an XML parser reports stand in the text that it parses."""

from __future__ import annotations

import html
import re

from .source import Origin, count

_TAG = re.compile(r"<[^!<>\"'](?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_TOKEN = re.compile(r"\S+")


class XmlSource:
    """Follows a parser through its text, event by event.

    xml: begins at character `at` of the request's text.
    """

    def __init__(self, xml: str, at: int) -> None:
        self._xml, self._at = xml, at
        self._bytes = xml.encode("utf-8", "replace")
        self._byte = self._character = 0  # of the last event
        self._content = 0  # where an element's content begins

    @property
    def position(self) -> int:
        """Of the last event, in characters of the request's text."""
        return self._at + self._character

    def move(self, byte: int) -> None:
        """The parser reports an event at this byte."""
        self._character += len(self._bytes[self._byte : byte].decode("utf-8", "replace"))
        self._byte = byte

    def open_content(self) -> None:
        """The last event is a start tag: remember where its content begins."""
        self._content = self._after_tag()

    def content(self, said: str) -> Origin:
        """The origin of what is said in place of the content, which ends at the last event."""
        return Origin(count(said), self._at + self._content, self.position)

    def characters(self, said: str, byte: int) -> list[Origin]:
        """The origins of the characters between the last event and the next one, which is at this byte."""
        begin = self._after_tag()
        self.move(byte)
        raw = _COMMENT.sub(lambda found: " " * len(found[0]), self._xml[begin : self._character])
        tokens = list(_TOKEN.finditer(raw))
        sizes = [count(html.unescape(token[0])) for token in tokens]
        begin += self._at
        if sum(sizes) != count(said):  # CDATA, or an entity that is white space
            return [Origin(count(said), begin, self.position)]
        return [
            Origin(size, begin + token.start(), begin + token.end()) for size, token in zip(sizes, tokens, strict=True)
        ]

    def _after_tag(self) -> int:
        tag = _TAG.match(self._xml, self._character)
        return tag.end() if tag else self._character
