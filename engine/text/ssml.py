"""Pauses and the part of SSML that a text may hold: `[pause:500ms]`, and `<speak>` with a few elements."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from xml.parsers import expat

from ..errors import InvalidMarkup
from ..types import SAMPLE_RATE
from .say_as import say_as
from .source import Origin, OriginQueue, count, verbatim
from .xml_source import XmlSource

Part = str | int  # text to say, or samples of silence

MAX_PAUSE_SECONDS = 10
PARAGRAPH_SECONDS = 0.5  # of silence between two paragraphs
# A text between these noncharacters is said as it stands: the lexicon leaves it alone.
FIXED_START, FIXED_END = "\ufdd0", "\ufdd1"

_ATTRIBUTES = {
    "speak": ("version",),
    "p": (),
    "s": (),
    "break": ("time", "strength"),
    "sub": ("alias",),
    "say-as": ("interpret-as", "format", "detail"),
}
_IGNORED = ("xml:", "xmlns", "xsi:")  # prefixes of attributes
_INLINE = ("break", "sub", "say-as")
_CHILDREN = {"": ("speak",), "speak": ("p", "s", *_INLINE), "p": ("s", *_INLINE), "s": _INLINE}
_STRENGTHS = {"none": 0.0, "x-weak": 0.25, "weak": 0.5, "medium": 0.75, "strong": 1.0, "x-strong": 1.25}  # seconds

_PAUSE = re.compile(r"\[(?i:pause):([^\[\]]{0,40})\]")
_TIME = re.compile(r"\+?(\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})\s?(ms|s)", re.I)
_OPEN = re.compile(r"<speak(?=[\s>/])")
_CLOSE = re.compile(r"</speak\s*>")
_PROLOG = re.compile(r"\s*<\?xml[^<>]{0,200}\?>\s*(?=<speak[\s>/])")
_FIXED = re.compile(f"[{FIXED_START}{FIXED_END}]")
_SENTENCE_ENDS = ".!?:;,…。！？"


def parse_markup(text: str, origins: OriginQueue | None = None) -> list[Part]:
    """The parts of a text in order. Raises InvalidMarkup for a pause or an element that is not known.

    `<speak>` may stand anywhere; whatever contains "<" outside of it is text.
    origins: receives where in `text` stands what the parts say.
    """
    if "<speak" not in text:
        return _plain_parts(text, 0, origins)
    parts: list[Part] = []
    done, prolog = 0, _PROLOG.search(text)
    if prolog:
        parts += _plain_parts(text[: prolog.start()], 0, origins)
        done = prolog.end()
    closed, unclosed = speak_spans(text)
    if unclosed is not None and not parts and not text[done:unclosed].strip():
        raise InvalidMarkup("<speak> is not closed: end it with </speak>")
    for start, end in closed:
        parts += _plain_parts(text[done:start], done, origins)
        parser = _SpeakParser(text[start:end], start)
        parts += parser.parse()
        if origins is not None:
            origins.add(parser.origins)
        done = end
    return parts + _plain_parts(text[done:], done, origins)


def _plain_parts(text: str, at: int, origins: OriginQueue | None) -> list[Part]:
    """The parts of a text outside of `<speak>` that begins at this character of the request's text."""
    if origins is not None:
        origins.add(_without_pauses(text, verbatim(text, at)))
    return _with_pauses(text)


def _without_pauses(text: str, origins: Iterable[Origin]) -> list[Origin]:
    """The origins of a text without those of its pauses, which are not said."""
    if "[" not in text:
        return list(origins)
    queue, kept, done = OriginQueue(origins), [], 0
    for pause in _PAUSE.finditer(text):
        kept += queue.take(count(text[done : pause.start()]))
        queue.take(count(pause[0]))
        done = pause.end()
    return kept + queue.take(count(text[done:]))


def speak_spans(text: str) -> tuple[list[tuple[int, int]], int | None]:
    """Where the closed `<speak>` elements of a text are, and where one begins that is not closed, if there is one."""
    closed: list[tuple[int, int]] = []
    done = 0
    while found := _OPEN.search(text, done):
        end = _speak_end(text, found)
        if end is None:
            return closed, found.start()
        closed.append((found.start(), end))
        done = end
    return closed, None


def _speak_end(text: str, opened: re.Match[str]) -> int | None:
    """Where a `<speak>` ends; None if it is not closed."""
    tag_end = text.find(">", opened.end())
    if tag_end > 0 and text[tag_end - 1] == "/":
        return tag_end + 1
    closed = _CLOSE.search(text, opened.end())
    return closed.end() if closed else None


def _with_pauses(text: str) -> list[Part]:
    """The text, and the pauses in it."""
    if "[" not in text or not (pieces := _PAUSE.split(text))[1:]:
        return [text] if text else []
    parts: list[Part] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            parts.append(_samples(piece.strip(), f"[pause:{piece}]"))
        else:
            parts.append(piece)
    return [part for part in parts if part]


def _samples(time: str, shown: str) -> int:
    found = _TIME.fullmatch(time)
    if found is None:
        raise InvalidMarkup(f"{shown}: {time!r} is not a time: write it as 500ms or 1.5s")
    seconds = float(found[1]) / (1000 if found[2].lower() == "ms" else 1)
    if seconds > MAX_PAUSE_SECONDS:
        raise InvalidMarkup(f"{shown}: a pause is at most {MAX_PAUSE_SECONDS} seconds; write several in a row for more")
    return round(seconds * SAMPLE_RATE)


class _SpeakParser:
    """Reads one `<speak>` element, which begins at this character of the request's text, into parts.

    origins: of what the parts say.
    """

    def __init__(self, xml: str, at: int) -> None:
        self.origins: list[Origin] = []
        self._xml = xml
        self._source = XmlSource(xml, at)
        self._parser = expat.ParserCreate()
        self._text_origins: list[Origin] = []  # of _text
        self._parts: list[Part] = []
        self._text: list[str] = []  # since the last pause
        self._open: list[str] = []  # elements, from the outermost on
        self._content: list[str] = []  # of the open sub or say-as
        self._attributes: dict[str, str] = {}  # of the same
        self._paragraph_ended = False  # a pause is due as soon as there is more to say

    def parse(self) -> list[Part]:
        parser = self._parser
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(self._xml.encode("utf-8", "replace"), True)
        except expat.ExpatError as error:
            raise InvalidMarkup(
                f"<speak> is not well formed ({expat.ErrorString(error.code)} at character {error.offset} of line "
                f"{error.lineno}): close every element, and write & as &amp; and < as &lt;"
            ) from None
        self._flush()
        return self._parts

    def _refuse_doctype(self, *_: Any) -> None:
        raise InvalidMarkup("<!DOCTYPE> is not supported inside the text: begin with <speak>")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else ""
        if name not in _ATTRIBUTES:
            raise InvalidMarkup(f"<{name[:40]}> is not supported: inside <speak> use {_LIST}")
        if name not in _CHILDREN.get(parent, ()):
            raise InvalidMarkup(f"<{name}> cannot stand inside <{parent}>")
        for attribute in attributes:
            if attribute not in _ATTRIBUTES[name] and not attribute.startswith(_IGNORED):
                raise InvalidMarkup(f"<{name} {attribute[:40]}> is not supported")
        self._open.append(name)
        self._source.move(self._parser.CurrentByteIndex)
        if name in ("sub", "say-as"):
            required = "alias" if name == "sub" else "interpret-as"
            if not attributes.get(required, "").strip():
                raise InvalidMarkup(f"<{name}> needs the attribute {required}")
            self._content, self._attributes = [], attributes
            self._source.open_content()
        elif name in ("p", "s"):
            self._end_sentence()
        elif name == "break":
            self._pause(attributes)

    def _end(self, name: str) -> None:
        self._open.pop()
        self._source.move(self._parser.CurrentByteIndex)
        if name == "sub":
            self._say_fixed(self._attributes["alias"])
        elif name == "say-as":
            kind, written = self._attributes["interpret-as"].strip(), self._attributes.get("format", "")
            self._say_fixed(say_as("".join(self._content), kind, written))
        elif name in ("p", "s"):
            self._end_sentence()
            self._paragraph_ended = self._paragraph_ended or name == "p"

    def _characters(self, text: str) -> None:
        said = _FIXED.sub("", text)
        origins = self._source.characters(said, self._parser.CurrentByteIndex)
        if self._open[-1] in ("sub", "say-as"):
            self._content.append(text)
        elif self._open[-1] == "break":
            if text.strip():
                raise InvalidMarkup("<break> cannot hold a text: write <break/>")
        else:
            self._say(said, origins)

    def _say_fixed(self, text: str) -> None:
        said = f"{FIXED_START}{_FIXED.sub('', text)}{FIXED_END}"
        self._say(said, [self._source.content(said)])

    def _say(self, text: str, origins: list[Origin]) -> None:
        if self._paragraph_ended and text.strip():
            self._paragraph_ended = False
            self._flush()
            if self._parts:
                self._parts.append(round(PARAGRAPH_SECONDS * SAMPLE_RATE))
        self._text.append(" ".join(f"|{text}|".split())[1:-1])  # a line end is a space
        self._text_origins += origins

    def _end_sentence(self) -> None:
        """Close the sentence so far with a full stop, unless it is closed."""
        for text in reversed(self._text):
            said = text.rstrip(f" {FIXED_END}\"'”’)")
            if said.strip(f" {FIXED_START}"):
                ended = said[-1] in _SENTENCE_ENDS
                self._text.append(" " if ended else ". ")
                if not ended:
                    self._text_origins.append(Origin(1, self._source.position, self._source.position))
                return

    def _pause(self, attributes: dict[str, str]) -> None:
        if "time" in attributes:
            samples = _samples(attributes["time"].strip(), f"<break time={attributes['time'][:40]!r}/>")
        else:
            strength = attributes.get("strength", "medium")
            if strength not in _STRENGTHS:
                raise InvalidMarkup(f"<break strength={strength[:40]!r}/>: use one of {', '.join(_STRENGTHS)}")
            samples = round(_STRENGTHS[strength] * SAMPLE_RATE)
        self._paragraph_ended = False
        if samples:
            self._flush()
            self._parts.append(samples)

    def _flush(self) -> None:
        text, self._text = "".join(self._text), []
        origins, self._text_origins = self._text_origins, []
        if text.strip():
            self._parts += _with_pauses(text)
            self.origins += _without_pauses(text, origins)


_LIST = ", ".join(f"<{name}>" for name in _ATTRIBUTES if name != "speak")
