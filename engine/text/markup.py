"""What is written and not said: emoji, invisible and decorating characters, HTML, Markdown."""

from __future__ import annotations

import html
import re
import unicodedata
from functools import cache
from typing import Any

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_SPACES = re.compile("[\t\x0b\x0c\x85\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029]")
# Marks that strike letters through, frame them, or are piled up. Up to two marks on a letter are spelling.
_MARK = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f]"
_MARKS_OF_A_LETTER = re.compile(f"{_MARK}+")
_OVERLAY = re.compile("[\u0334-\u0338\u0488\u0489\u20d0-\u20f0]")
# Letters in mathematical or framed styles.
_STYLED = re.compile("[\U0001d400-\U0001d7ff\u2460-\u24ff\u210a-\u2113\u2133-\u2134\ufb00-\ufb06]+")
_JOINER = re.compile("(?<![\u0590-\u1fff])[\u200c\u200d](?![\u0590-\u1fff])|[\ufe0e\ufe0f]")
_PICTURES = re.compile("[\u2190-\u21ff\u2300-\u23ff\u2500-\u27bf\u2900-\u297f\u2b00-\u2bff\U0001f000-\U0001faff]+")

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_AMPERSANDS = re.compile(r"&(?:amp;)+")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9-]{0,20}(?:\s[^<>]{0,300})?/?>|<!--[^<>]{0,300}-->")
_BREAK = re.compile(r"<(?:br|/p|/div|/li|/h[1-6]|/tr)\s?/?>", re.I)

_FENCE = re.compile(r"^ {0,3}(?:`{3,}|~{3,})[^\n`]*$", re.M)
_MARKS = re.compile(r"[*_`\[\]|\\]|~~|^\s{0,3}(?:[-+*>#=]|\d{1,9}[.)]\s)|<[A-Za-z/!]", re.M)
_TIMES = re.compile(r"(?<=\d)\s?\*\s?(?=\d)")
_BLOCKS = re.compile(r"(\n[ \t]*\n\s*)")
_BRACKETS = 10  # opening brackets in a block, beyond which fewer than 25 characters for each are no links
_DELIMITERS = re.compile(r"\*+|(?<!\w)_+|_+(?!\w)|~~+|`+|[\[\]\\]")
_ENDED = ".!?:;,…。！？"


def plain_text(text: str) -> str:
    """The text without its markup, in the same order; lines stay lines."""
    text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    if not text.isascii():
        text = _plain_characters(text)
    text = _SPACES.sub(" ", text)
    if "&" in text and ";" in text:
        text = _ENTITY.sub(_entity, _AMPERSANDS.sub("&", text))
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    return _without_markdown(text) if _MARKS.search(text) or "```" in text or "~~~" in text else text


def _entity(found: re.Match[str]) -> str:
    character = html.unescape(found[0])
    return " " if character == found[0] or character in "\0\r" else character


def _plain_characters(text: str) -> str:
    text = _NOT_ASCII.sub(lambda found: _without_emoji(found[0]), text)
    text = _STYLED.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = _JOINER.sub("", _INVISIBLE.sub("", text))
    return _MARKS_OF_A_LETTER.sub(lambda found: "" if _is_decoration(found[0]) else found[0], text)


def _is_decoration(marks: str) -> bool:
    return len(marks) > 2 or _OVERLAY.search(marks) is not None


_SAID = {"→": " to ", "⇒": " implies ", "↔": " to ", "✓": " check ", "✔": " check "}  # fmt: skip


def _without_emoji(run: str) -> str:
    if run < "\u2190" and max(run) < "\u2190":
        return run
    import emoji  # its table is large: loaded with the first text that may hold one

    run = "".join(_SAID.get(character, character) for character in run)
    kept = emoji.replace_emoji(run, lambda characters, _: characters if characters in "©®™" else " ")
    return _PICTURES.sub(" ", kept)


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 12})
    return parser.enable(["table", "strikethrough"]).disable(
        ["code", "fence", "reference", "html_inline", "html_block"]
    )


def _without_markdown(text: str) -> str:
    text = _TIMES.sub(" × ", _FENCE.sub("", text))
    return "".join(
        _block(part) if index % 2 == 0 and _MARKS.search(part) else part
        for index, part in enumerate(_BLOCKS.split(text))
    )


def _block(text: str) -> str:
    if text.count("[") > max(_BRACKETS, len(text) // 25) or len(text) > 8000 or text.count("*") + text.count("_") > 400:
        return _DELIMITERS.sub("", text)
    lines: list[str] = []
    in_cell = depth = 0
    for token in _parser().parse(text):
        kind = token.type
        if kind == "inline":
            lines.append(_inline(token.children or []))
        elif kind == "list_item_open":
            depth += 1
            if token.info:
                lines.append(f"{token.info}.")
                lines.append(" ")
        elif kind == "list_item_close":
            depth -= 1
            _end_sentence(lines)
        elif kind in ("td_close", "th_close"):
            in_cell = 1
            lines.append(", ")
        elif kind == "tr_close" and in_cell:
            while lines and not lines[-1].strip(", "):
                lines.pop()
            _end_sentence(lines)
        elif kind == "heading_close" or (kind == "paragraph_close" and depth):
            _end_sentence(lines)
        elif kind == "paragraph_close":
            lines.append("\n")
    return "".join(lines).rstrip("\n")


def _end_sentence(lines: list[str]) -> None:
    """Headings, list items and table rows are sentences: end them with a dot unless they end already."""
    while lines and not lines[-1].strip():
        lines.pop()
    if lines:
        last = lines[-1].rstrip()
        lines.append("\n" if last[-1] in _ENDED else ".\n")


def _inline(tokens: list[Any]) -> str:
    parts = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type in ("text", "text_special", "code_inline", "image"):
            parts.append(token.content)
    return "".join(parts)
