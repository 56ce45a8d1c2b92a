"""The layout of one row's context, and the spans to prefill for the next text chunk. Pure, no torch.

A context is `voice segments | earlier segments | current chunk`. A segment is a text's tokens, its audio frames and one
EOS frame. The EOS frame, and a last frame that was generated but not fed back, are prefilled with the next chunk, if
there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .errors import PromptTooLong
from .text import SpokenChunk, max_frames_for, split_text
from .timing import Word, share_words
from .types import Codes

Tokens = list[int]
Tokenize = Callable[[str, int], Tokens]  # of a text, and of the part that it is of
Span = Tokens | Codes  # text tokens, or frames (frames, codebooks): one position each


@dataclass(frozen=True)
class TextChunk:
    """A piece of the text: its tokens, and the limit on its audio in frames.

    pause_before: samples of silence before the first chunk of a part. pause_after: after any chunk.
    part, ends_part, ends_turn: as of SpokenChunk. Without text it is the end of a text that was written while it was
        spoken.
    words: where its words stand in the request's text, if that was asked for.
    """

    text: str
    tokens: Tokens
    max_frames: int
    pause_before: int = 0
    pause_after: int = 0
    is_last: bool = False
    words: tuple[Word, ...] = ()
    part: int = 0
    ends_part: bool = False
    ends_turn: bool = False


def plan_chunks(
    chunks: Iterable[SpokenChunk], free: int, tokenize: Tokenize, *, growing: bool = False
) -> Iterator[TextChunk]:
    """The chunks of a text, split further where their tokens and frames do not fit into `free` positions.

    Each is made when it is asked for, unless `free` is so small that a later one may not fit and the text is complete.
    growing: it is still being written. Raises PromptTooLong if not even a chunk of 20 characters fits.
    """
    planned = _plan_each(chunks, free, tokenize)
    return planned if growing or free >= _ALWAYS_ENOUGH else iter(list(planned))


def _plan_each(chunks: Iterable[SpokenChunk], free: int, tokenize: Tokenize) -> Iterator[TextChunk]:
    for chunk in chunks:
        parts = _fit(chunk, free, tokenize) if chunk.text else [("", [])]
        shares = share_words(chunk.words, [text for text, _ in parts])
        for number, ((text, tokens), words) in enumerate(zip(parts, shares, strict=True), start=1):
            is_end = number == len(parts)
            yield TextChunk(
                text,
                tokens,
                max_frames_for(text),
                pause_before=chunk.pause_before if number == 1 else 0,
                pause_after=chunk.pause_after if is_end else 0,
                is_last=chunk.is_last and is_end,
                words=words,
                part=chunk.part,
                ends_part=chunk.ends_part and is_end,
                ends_turn=chunk.ends_turn and is_end,
            )


def _fit(chunk: SpokenChunk, free: int, tokenize: Tokenize) -> list[tuple[str, Tokens]]:
    """The chunk's text in as few pieces as fit, with their tokens."""
    limit = len(chunk.text)
    while True:
        parts = [(part, tokenize(part, chunk.part)) for part in split_text(chunk.text, limit)]
        if all(len(tokens) + max_frames_for(part) <= free for part, tokens in parts):
            return parts
        if limit <= _MIN_CHUNK:
            raise PromptTooLong(
                f"no text of {limit} characters fits: the voice, or in a dialogue all voices together, leave "
                f"{max(free, 0)} positions of the model's context for text and audio; use shorter recordings or "
                "transcripts, or fewer voices"
            )
        limit = max(limit * 3 // 4, _MIN_CHUNK)


def fixed_chunk(text: str, free: int, tokenize: Tokenize, frames: int) -> TextChunk:
    """The text as one chunk of exactly so many frames. Raises PromptTooLong if it does not fit."""
    tokens = tokenize(text, 0)
    if len(tokens) + frames > free:
        raise PromptTooLong(f"the text takes {len(tokens)} positions and its audio {frames}, but {free} are free")
    return TextChunk(text, tokens, frames, is_last=True)


_MIN_CHUNK = 20  # characters
# Positions that any _MIN_CHUNK characters fit into: 4 bytes each, the speaker, and symbols that are said slowly.
_ALWAYS_ENOUGH = 4 * _MIN_CHUNK + 8 + max_frames_for("$" * _MIN_CHUNK)


@dataclass(frozen=True)
class Prefill:
    """Spans to write into a row from position `start` on; the end-of-text token is the input of the next step."""

    start: int
    spans: list[Span]

    @cached_property
    def length(self) -> int:
        """Positions that it writes."""
        return sum(map(len, self.spans))

    def split(self, length: int) -> tuple[Prefill, Prefill]:
        """The first `length` positions, fewer than all, and the rest."""
        now: list[Span] = []
        later: list[Span] = []
        left = length
        for span in self.spans:
            now.append(span[:left])
            if len(span) > left:
                later.append(span[left:])
            left = max(left - len(span), 0)
        return Prefill(self.start, now), Prefill(self.start + length, later)


@dataclass
class Context:
    """One row's context.

    max_positions: of the model. voice_length: positions of the voice segments, at the start. eos_frame: (1, codebooks).
    """

    max_positions: int
    voice_length: int
    eos_frame: Codes
    position: int = 0  # where the next span goes
    _segments: list[tuple[Tokens, Codes]] = field(default_factory=list)  # after the voice, oldest first
    _chunk_tokens: Tokens = field(default_factory=list)
    _stale: bool = False  # the segments are not prefilled yet
    _unfed: Codes | None = None  # frames of the last segment that are not prefilled yet, the EOS frame included

    def __post_init__(self) -> None:
        self.position = self.voice_length

    def add_segment(self, tokens: Tokens, codes: Codes) -> None:
        """Add a history segment before the first chunk: text tokens and codes (frames, codebooks)."""
        self._segments.append((tokens, codes))
        self._stale = True

    def begin_chunk(self, chunk: TextChunk) -> Prefill:
        """The prefill for a chunk: after the earlier segments if it fits, else after the newest of them only."""
        before: list[Span] = [] if self._unfed is None else [self._unfed]
        need = sum(map(len, before)) + len(chunk.tokens) + chunk.max_frames
        if self._stale or self.position + need > self.max_positions:
            self._stale = False
            before = self._keep_newest(len(chunk.tokens) + chunk.max_frames)
        start = self.position
        spans = [*before, chunk.tokens[:-1]]
        self.position += sum(map(len, spans))
        self._chunk_tokens, self._unfed = chunk.tokens, None
        return Prefill(start, spans)

    def finish_chunk(self, codes: Codes, fed: int) -> None:
        """Record a chunk's codes (frames, codebooks), the first `fed` of which have been fed back to the model."""
        self.position += 1 + fed  # the end-of-text token was the first step's input
        self._unfed = np.concatenate([codes[fed:], self.eos_frame])
        self._segments.append((self._chunk_tokens, codes))

    def reset(self) -> None:
        """Drop everything but the voice."""
        self._segments.clear()
        self._unfed = None
        self.position = self.voice_length

    def _keep_newest(self, need: int) -> list[Span]:
        """Keep the newest segments that fit into half of the free positions, so that not every chunk needs this."""
        free = (self.max_positions - self.voice_length - need) // 2
        kept: list[tuple[Tokens, Codes]] = []
        for tokens, codes in reversed(self._segments):
            free -= len(tokens) + len(codes) + 1
            if free < 0:
                break
            kept.insert(0, (tokens, codes))
        self._segments, self.position = kept, self.voice_length
        return [span for tokens, codes in kept for span in (tokens, codes, self.eos_frame)]
