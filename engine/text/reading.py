"""Reads a text chunk by chunk, as an engine says it: markup, lexicon, normalisation and splitting, in flat memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from ..errors import InvalidRequest, NoWords
from ..lexicon import Lexicon
from ..text_feed import TextFeed
from ..timing import Word
from ..types import DialogueTurn, SpeechRequest
from .normalization import has_words, normalize_window, windows
from .source import OriginQueue, count, trace
from .splitting import best_cut
from .ssml import FIXED_END, FIXED_START, Part, parse_markup

_SPACES = re.compile(r"\s+")
_FIXED = re.compile(f"{FIXED_START}([^{FIXED_END}]*){FIXED_END}?|{FIXED_END}")


@dataclass(frozen=True)
class SpokenChunk:
    """A text chunk as it is said.

    text: empty if the whole text is pauses, and at the end of a text that was written while it was spoken.
    pause_before: samples of silence before the first chunk of a part. pause_after: after any chunk.
    words: where its words stand in the request's text, if that was asked for.
    part, ends_part: the turn of a dialogue, from 0, and whether it is that turn's last chunk. Of a text that is still
        being written: the index of its part, and whether it is that part's last chunk; which chunk is the text's last
        is then known only afterwards.
    ends_turn: it is the last chunk of a dialogue's turn, after which the gap before the next one is the silence.
    """

    text: str
    pause_before: int = 0
    pause_after: int = 0
    is_last: bool = False
    words: tuple[Word, ...] = ()
    part: int = 0
    ends_part: bool = False
    ends_turn: bool = False


def spoken_chunks(
    text: str,
    max_characters: int,
    *,
    normalizes: bool = False,
    lexicon: Lexicon | None = None,
    locates_words: bool = False,
) -> Iterator[SpokenChunk]:
    """The chunks of a text, each made when it is asked for: the work before the first does not depend on the length.

    They are split as by `split_text`; besides, each pause ends a chunk.
    Raises InvalidMarkup and NoWords before the first chunk.
    """
    written, said = (OriginQueue(), OriginQueue()) if locates_words else (None, None)
    pieces = _split(_spoken(parse_markup(text, written), normalizes, lexicon, written, said), max_characters)
    before, wordless, held = 0, "", None
    for piece in pieces:
        if isinstance(piece, int):
            if held is None:
                before += piece
            else:
                held = replace(held, pause_after=held.pause_after + piece)
            continue
        words = said.words(piece) if said is not None else ()
        if not any(map(str.isalnum, piece)):
            wordless = wordless or piece
        else:
            if held is not None:
                yield held
            held, before = SpokenChunk(piece, before, words=words), 0
    if held is None and not wordless and not before:
        raise NoWords(
            "text has no words once it is normalised (emoji, Markdown and punctuation are not spoken): send words, "
            "or normalize=false to leave the text as it is"
            if normalizes
            else "text has no words and no pauses: send words"
        )
    held = held or SpokenChunk(wordless, before)
    yield replace(held, is_last=True)


Read = Callable[[str], Iterator[SpokenChunk]]


def request_chunks(request: SpeechRequest, max_characters: int | None = None) -> Iterator[SpokenChunk]:
    """The chunks of a request's text, of at most its chunk_characters, and at most `max_characters`."""
    limit = request.chunk_characters if max_characters is None else min(request.chunk_characters, max_characters)
    read = partial(
        spoken_chunks,
        max_characters=limit,
        normalizes=request.normalize,
        lexicon=request.lexicon,
        locates_words=request.timestamps,
    )
    if request.turns:
        return _chunks_of_turns(request.turns, read)
    return read(request.text) if request.more is None else _chunks_of_parts(request.text, request.more, read)


def _chunks_of_turns(turns: Sequence[DialogueTurn], read: Read) -> Iterator[SpokenChunk]:
    """The chunks of a dialogue, turn by turn. Raises the errors of all turns before the first chunk."""
    texts = [_begin_turn(number, turn, read) for number, turn in enumerate(turns, start=1)]
    at = 0
    for part, (turn, chunks) in enumerate(zip(turns, texts, strict=True)):
        for chunk in chunks:
            words = tuple(
                replace(word, text_begin=at + word.text_begin, text_end=at + word.text_end) for word in chunk.words
            )
            is_last = chunk.is_last and part == len(turns) - 1
            ends = chunk.is_last
            yield replace(chunk, is_last=is_last, words=words, part=part, ends_part=ends, ends_turn=ends)
        at += len(turn.text) + 1  # a line each


def _begin_turn(number: int, turn: DialogueTurn, read: Read) -> Iterator[SpokenChunk]:
    chunks = read(turn.text)
    try:
        first = next(chunks)
    except InvalidRequest as error:
        raise type(error)(f"turn {number}: {error}") from None
    if not first.text:
        raise NoWords(f"turn {number} has no words: send words with its pauses, or a longer gap before the next turn")
    return chain([first], chunks)


def _chunks_of_parts(first: str, more: TextFeed, read: Read) -> Iterator[SpokenChunk]:
    """The chunks of a text that is still being written, and one without words once it has ended.

    After a chunk that ends a part, the next is asked for only when `more` has the next part.
    """
    part, text = 0, first
    while True:
        for chunk in read(text):
            if not chunk.text:
                raise NoWords("a part of a text that is still being written has no words: send words with its pauses")
            yield replace(chunk, is_last=False, part=part, ends_part=chunk.is_last)
        following = more.get(part)
        part += 1
        if following is None:
            break
        text = following
    yield SpokenChunk("", is_last=True, part=part)


def spoken_text(text: str, *, normalizes: bool = False, lexicon: Lexicon | None = None) -> str:
    """The whole text as it is said, without its pauses; "" if it has no words."""
    pieces = _split(_spoken(parse_markup(text), normalizes, lexicon), len(text) + 1)
    return " ".join(piece for piece in pieces if isinstance(piece, str))


def _spoken(
    parts: list[Part],
    normalizes: bool,
    lexicon: Lexicon | None,
    written: OriginQueue | None = None,
    spoken: OriginQueue | None = None,
) -> Iterator[Part]:
    """The parts as they are said, in windows.

    written: the origins of the parts. spoken: receives the origins of what is said.
    """
    for part in parts:
        if isinstance(part, int):
            yield part
            continue
        for window in windows(part):
            origins = written.take(count(window)) if written is not None else []
            if normalizes and not has_words(window):
                yield " "
                continue
            said = _pronounce(window, lexicon)
            said = normalize_window(said) if normalizes else said
            if spoken is not None:
                spoken.add(trace(window, origins, said))
            yield said


def _pronounce(text: str, lexicon: Lexicon | None) -> str:
    """The text with the lexicon's replacements, except where its markup says how it is said."""
    if FIXED_START not in text and FIXED_END not in text:
        return lexicon.apply(text) if lexicon else text
    if not lexicon:
        return _FIXED.sub(r"\1", text)
    parts = _FIXED.split(text)  # every second one is fixed
    return "".join(part or "" if index % 2 else lexicon.apply(part) for index, part in enumerate(parts))


def _split(parts: Iterator[Part], limit: int) -> Iterator[Part]:
    """Chunks of at most `limit` characters, none empty, and the pauses between them."""
    rest = ""
    for part in parts:
        if isinstance(part, int):
            if rest.strip():
                yield rest.rstrip()
            yield part
            rest = ""
            continue
        more = _SPACES.sub(" ", part)
        rest += more[1:] if more.startswith(" ") and (not rest or rest[-1] == " ") else more
        while len(rest.rstrip()) > limit:
            cut = best_cut(rest, limit)
            yield rest[:cut].rstrip()
            rest = rest[cut:].lstrip()
    if rest.strip():
        yield rest.rstrip()
