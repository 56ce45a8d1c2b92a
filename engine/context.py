"""The layout of one row's context, and the spans to prefill for the next text chunk. Pure, no torch.

A context is `voice segment | earlier segments | current chunk`. A segment is a text's tokens, its audio frames and one
EOS frame. The EOS frame, and a last frame that was generated but not fed back, are prefilled with the next chunk, if
there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .errors import PromptTooLong
from .text import max_frames_for, split_text
from .types import Codes

Tokens = list[int]
Tokenize = Callable[[str], Tokens]
Span = Tokens | Codes  # text tokens, or frames (frames, codebooks): one position each


@dataclass(frozen=True)
class TextChunk:
    """A piece of the text: its tokens, and the limit on its audio in frames."""

    text: str
    tokens: Tokens
    max_frames: int


def plan_chunks(
    text: str, max_characters: int, free: int, tokenize: Tokenize, fixed_frames: int | None
) -> list[TextChunk]:
    """Split a text so that each chunk, its tokens and its largest number of frames, fits into `free` positions.

    max_characters: of a chunk; chunks are shorter where `free` requires it. fixed_frames: take the text as one chunk of
    exactly this many frames. Raises PromptTooLong if not even a chunk of 20 characters fits.
    """
    if fixed_frames is not None:
        tokens = tokenize(" ".join(text.split()))
        if len(tokens) + fixed_frames > free:
            raise PromptTooLong(
                f"the text takes {len(tokens)} positions and its audio {fixed_frames}, but {free} are free"
            )
        return [TextChunk(text, tokens, fixed_frames)]
    limit = max_characters
    while True:
        chunks = [TextChunk(chunk, tokenize(chunk), max_frames_for(chunk)) for chunk in split_text(text, limit)]
        if all(len(chunk.tokens) + chunk.max_frames <= free for chunk in chunks):
            return chunks
        if limit <= _MIN_CHUNK:
            raise PromptTooLong(
                f"no text of {limit} characters fits: the voice leaves {max(free, 0)} positions of the model's "
                "context for text and audio; use a shorter recording or transcript"
            )
        limit = max(limit * 3 // 4, _MIN_CHUNK)


_MIN_CHUNK = 20  # characters


@dataclass(frozen=True)
class Prefill:
    """Spans to write into a row from position `start` on; the end-of-text token is the input of the next step."""

    start: int
    spans: list[Span]

    @property
    def length(self) -> int:
        """Positions that it writes."""
        return sum(map(len, self.spans))

    def split(self, length: int) -> tuple[Prefill, Prefill | None]:
        """The first `length` positions, and the rest, None if there is none."""
        now: list[Span] = []
        later: list[Span] = []
        left = length
        for span in self.spans:
            now.append(span[:left])
            if len(span) > left:
                later.append(span[left:])
            left = max(left - len(span), 0)
        return Prefill(self.start, now), Prefill(self.start + length, later) if later else None


@dataclass
class Context:
    """One row's context.

    max_positions: of the model. voice_length: positions of the voice segment, at the start. eos_frame: (1, codebooks).
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
