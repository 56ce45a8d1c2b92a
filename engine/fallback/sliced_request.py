"""One request in a slot of a fallback engine: its text chunks, the slices of its audio, and when more of it is due."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from ..stream import AudioQueue
from ..text import SpokenChunk, request_chunks
from ..text_feed import NextPart
from ..types import Samples, SpeechRequest
from .audio_slices import AudioSlicer

_MAX_CHUNK_CHARACTERS = 150  # of a text chunk, which is made as a whole, or whose prosody is predicted as a whole


class SlicedRequest(ABC):
    """Puts slices into the queue while it has space. Implements SlotRequest.

    The first text chunk is planned here, each other one when it is due; with ignore_stop they begin again after the
    last. Raises InvalidRequest.
    silence: samples, if the text is nothing but pauses.
    """

    def __init__(self, request: SpeechRequest, queue: AudioQueue) -> None:
        self.request = request
        self.queue = queue
        self._slicer = AudioSlicer(request)
        chunks = request_chunks(request, _MAX_CHUNK_CHARACTERS)
        first = next(chunks)
        self.silence = None if first.text else first.pause_before
        self.chunks = self._repeated(first, chunks)
        self._next_part = NextPart(request.more, queue.on_change)
        self._has_audio = False  # any since the text last began
        self._began = time.monotonic()  # playback

    def _repeated(self, first: SpokenChunk, others: Iterator[SpokenChunk]) -> Iterator[SpokenChunk]:
        yield first
        yield from others
        while self.request.ignore_stop:
            yield from request_chunks(self.request, _MAX_CHUNK_CHARACTERS)

    @property
    def due(self) -> float:
        """When its listener has heard all that was given, or began to wait (time.monotonic())."""
        return self._began + self.queue.audio_seconds

    @property
    def waiting_for_text(self) -> bool:
        """All is emitted that was written."""
        return self._slicer.needs_chunk and self._next_part.missing

    def take_turn(self) -> None:
        self.emit_slices()
        if not (self._next_part.missing or self.queue.full or self.queue.done):
            self.synthesize()
            self.emit_slices()

    @abstractmethod
    def synthesize(self) -> None:
        """Push the next piece of audio; begin and end the text chunks that it is of. Raises EngineError."""

    def begin_chunk(self, chunk: SpokenChunk) -> None:
        self._slicer.begin_chunk(self._ends_speech(chunk), chunk.pause_before, chunk.part)

    def push(self, samples: Samples) -> None:
        self._has_audio = self._has_audio or bool(samples.any())
        self._slicer.push(samples)

    def end_chunk(self, chunk: SpokenChunk) -> None:
        """A text without any audio is not repeated."""
        ends_speech = self._ends_speech(chunk) or (chunk.is_last and not self._has_audio)
        self._slicer.end_chunk(ends_speech, chunk.pause_after, ends_part=chunk.ends_part)
        self._has_audio = self._has_audio and not chunk.is_last
        if chunk.ends_part:
            self._next_part.follows(chunk.part)

    def pauses_after(self, chunk: SpokenChunk) -> bool:
        """Whether a sentence's pause follows: neither the end, nor a pause of the text, nor a gap between turns."""
        return not (self._ends_speech(chunk) or chunk.pause_after or chunk.ends_turn)

    def emit_slices(self) -> None:
        """Put ready slices into the queue while it has space; end it with the speech."""
        while not self.queue.full and not self.queue.done and (chunk := self._slicer.take()) is not None:
            self._began = max(self._began, time.monotonic() - self.queue.audio_seconds)
            self.queue.put(chunk)
        if self._slicer.speech_ended:
            self.queue.end()

    def _ends_speech(self, chunk: SpokenChunk) -> bool:
        return chunk.is_last and not self.request.ignore_stop
