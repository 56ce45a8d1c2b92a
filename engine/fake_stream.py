"""One request of a fake engine: tones of the length of its text, in the slices that a real engine would emit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from .fake_options import Fault
from .slice_policy import SlicePolicy
from .stream import AudioQueue
from .text import SpokenChunk, request_chunks
from .text_feed import NextPart
from .timing import TextTiming, Word
from .types import FRAME_MILLISECONDS, FRAME_SAMPLES, SAMPLE_RATE, AudioChunk, Samples, SpeechRequest


def tone(request: SpeechRequest, first_frame: int, frames: int, part: int = 0) -> Samples:
    """The audio of some frames of a request: a continuous sine whose pitch depends on the voice.

    part: the turn of a dialogue that they are of.
    Returns float32 (frames * 1920,).
    """
    turn = request.turn(part)
    key = turn.voice.key if turn.voice is not None else f"{turn.speaker:x}"
    start = first_frame * FRAME_SAMPLES
    positions = np.arange(start, start + frames * FRAME_SAMPLES) % SAMPLE_RATE
    return np.asarray(_sine(150 + int(key[:6], 16) % 500)[positions])


@lru_cache(maxsize=16)
def _sine(hertz: int) -> Samples:
    """One second of a sine, periodic. Cached, so that hundreds of fake streams cost almost nothing."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)


@dataclass(eq=False)
class FakeStream:
    """A request that waits for slots or is running."""

    request: SpeechRequest
    queue: AudioQueue
    fault: Fault | None
    frame_seconds: float
    hides_words: bool
    made: int = 0  # frames, including those of the unfinished slice
    emitted: int = 0  # frames
    not_before: float = 0.0  # earliest time of its next frame
    slice_policy: SlicePolicy = field(init=False)
    chunks: Iterator[SpokenChunk] = field(init=False)
    chunk: SpokenChunk = field(init=False)  # the one that is spoken
    chunk_index: int = 0
    _next_part: NextPart = field(init=False)
    _chunk_end: int = field(init=False)  # frames of the request up to its end
    _pause_before: int = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        self.chunks = request_chunks(request)
        self.chunk = next(self.chunks)
        self._next_part = NextPart(request.more, self.queue.on_change)
        self._chunk_end, self._pause_before = len(self.chunk.text), self.chunk.pause_before
        self.slice_policy = self._new_slice_policy()

    def _new_slice_policy(self) -> SlicePolicy:
        """The clock counts the request's own frames, so that slices do not depend on the machine's load."""
        request = self.request
        begun = self.emitted
        return SlicePolicy(
            request.first_slice_frames,
            request.slice_frames,
            audio=lambda: (self.emitted - begun) * FRAME_MILLISECONDS / 1000,
            clock=lambda: self.made * self.frame_seconds,
        )

    @property
    def slots(self) -> int:
        return 2 if self.request.guidance > 0 else 1

    def advance(self) -> bool:
        """Make one frame and emit the slice that it fills. Returns whether it is the last."""
        self.made += 1
        request, chunk = self.request, self.chunk
        ends_chunk = self.made == self._chunk_end and not request.ignore_stop
        last = (ends_chunk and chunk.is_last) or self.made == request.max_frames
        if last or ends_chunk or self.made - self.emitted >= self.slice_policy.size:
            self._emit(ends_chunk or last, last)
        if ends_chunk and not last:
            if chunk.ends_part and request.more is not None:
                self._next_part.follows(chunk.part)
            else:
                self._begin_next_chunk()
        return last

    def _begin_next_chunk(self) -> None:
        self.chunk = next(self.chunks)
        self.chunk_index += 1
        self._chunk_end += len(self.chunk.text)
        self._pause_before = self.chunk.pause_before

    @property
    def waiting_for_text(self) -> bool:
        return self._next_part.missing

    def read_on(self) -> bool:
        """Begin the next part of the text, which is there, if one is due. Returns whether the text has ended instead.

        Raises InvalidRequest.
        """
        if self.request.more is not None and self.chunk.ends_part and self.made == self._chunk_end:
            self._begin_next_chunk()
            self.slice_policy = self._new_slice_policy()  # its clock does not show how long the request has waited
            if not self.chunk.text:
                self._emit(ends_chunk=True, last=True)
                return True
        return False

    def _emit(self, ends_chunk: bool, last: bool) -> None:
        samples = tone(self.request, self.emitted, self.made - self.emitted, self.chunk.part)
        codes = np.full((self.made - self.emitted, 1), self.made, np.int64)
        self.queue.put(
            AudioChunk(
                samples,
                codes,
                text_chunk=self.chunk_index,
                in_last_text_chunk=self.chunk.is_last,
                ends_text_chunk=ends_chunk,
                ends_speech=last,
                pause_before=self._pause_before,
                pause_after=self.chunk.pause_after if ends_chunk else 0,
                timings=self._timings() if ends_chunk and self.request.timestamps else (),
                text_part=self.chunk.part,
                ends_text_part=ends_chunk and self.chunk.ends_part,
            ),
        )
        self.slice_policy.emitting()
        self.emitted, self._pause_before = self.made, 0

    def _timings(self) -> tuple[TextTiming, ...]:
        """Of the text chunk that ends now; its words have places unless the options hide them."""
        frames = len(self.chunk.text) - (self._chunk_end - self.made)
        words = self.chunk.words if self.hides_words else tuple(_placed_words(self.chunk))
        return (TextTiming(words, 0, frames * FRAME_SAMPLES).clipped(0, frames * FRAME_SAMPLES),)


def _placed_words(chunk: SpokenChunk) -> Iterator[Word]:
    """Each word of a text chunk at its frames, one for each character."""
    at = 0
    for word in chunk.words:
        at = chunk.text.index(word.text, at)
        yield replace(word, begin=at * FRAME_SAMPLES, end=(at + len(word.text)) * FRAME_SAMPLES)
        at += len(word.text)
