"""What a row's context holds, and what has to be prefilled for the next chunk of text. Pure, no torch.

A context is `voice segment | segments already spoken | the chunk being spoken`. A segment is a text's tokens,
the frames that say it and one closing frame. The closing frame (and a last frame that was made but never fed
back) goes in when the next chunk begins, for only then is it known that one does.
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
Span = Tokens | Codes  # text positions, or frames (frames, codebooks): one position each


@dataclass(frozen=True)
class TextChunk:
    """A piece of the text as it will be spoken: its tokens, and the frames that it may take."""

    text: str
    tokens: Tokens
    max_frames: int


def plan_chunks(text: str, most_characters: int, room: int, tokenize: Tokenize, whole: int | None) -> list[TextChunk]:
    """Cut a text so that each chunk, its tokens and its frames at their bound, fits into `room` positions.

    Chunks are shorter than `most_characters` where the room asks for it. whole: take the text as one chunk
    of just this many frames. Raises PromptTooLong if not even the shortest useful chunk fits.
    """
    if whole is not None:
        tokens = tokenize(" ".join(text.split()))
        if len(tokens) + whole > room:
            raise PromptTooLong(f"the text takes {len(tokens)} positions and its audio {whole}, but {room} are free")
        return [TextChunk(text, tokens, whole)]
    limit = most_characters
    while True:
        chunks = [TextChunk(chunk, tokenize(chunk), max_frames_for(chunk)) for chunk in split_text(text, limit)]
        if all(len(chunk.tokens) + chunk.max_frames <= room for chunk in chunks):
            return chunks
        if limit <= _SHORTEST_CHUNK:
            raise PromptTooLong(
                f"no text of {limit} characters fits: the voice leaves {max(room, 0)} positions of the model's "
                "context for text and audio; use a shorter recording or transcript"
            )
        limit = max(limit * 3 // 4, _SHORTEST_CHUNK)


_SHORTEST_CHUNK = 20


@dataclass(frozen=True)
class Prefill:
    """Put these spans into the row from position `start` on; the end of the text goes in with the next step."""

    start: int
    spans: list[Span]


@dataclass
class Context:
    """One row's context.

    limit: positions of the model. voice_length: positions that the voice segment takes, at the start.
    eos_frame: the closing frame, (1, codebooks).
    """

    max_positions: int
    voice_length: int
    eos_frame: Codes
    position: int = 0  # where the next thing goes
    _segments: list[tuple[Tokens, Codes]] = field(default_factory=list)  # spoken since the voice, oldest first
    _chunk_tokens: Tokens = field(default_factory=list)
    _stale: bool = False  # the segments are not in the row yet
    _unfed: Codes | None = None  # frames of the last segment that are not in the context yet, the closing one too

    def __post_init__(self) -> None:
        self.position = self.voice_length

    def add_segment(self, tokens: Tokens, codes: Codes) -> None:
        """Something was said before the first chunk: its text's tokens and its frames (frames, codebooks)."""
        self._segments.append((tokens, codes))
        self._stale = True

    def begin_chunk(self, chunk: TextChunk) -> Prefill:
        """Make room for a chunk, behind what was spoken if it fits, else with only the newest segments kept."""
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
        """The chunk is spoken: its frames (frames, codebooks), the first `fed` of which the model has read."""
        self.position += 1 + fed  # the end of the text was the first step's input
        self._unfed = np.concatenate([codes[fed:], self.eos_frame])
        self._segments.append((self._chunk_tokens, codes))

    def reset(self) -> None:
        """Go back to the voice alone."""
        self._segments.clear()
        self._unfed = None
        self.position = self.voice_length

    def _keep_newest(self, need: int) -> list[Span]:
        """Keep the newest segments that fit into half of what is free, so that the next roll is not the next chunk."""
        free = (self.max_positions - self.voice_length - need) // 2
        kept: list[tuple[Tokens, Codes]] = []
        for tokens, codes in reversed(self._segments):
            free -= len(tokens) + len(codes) + 1
            if free < 0:
                break
            kept.insert(0, (tokens, codes))
        self._segments, self.position = kept, self.voice_length
        return [span for tokens, codes in kept for span in (tokens, codes, self.eos_frame)]
