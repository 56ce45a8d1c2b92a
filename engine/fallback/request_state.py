"""A request on its way through a slot of the fallback voice."""

from __future__ import annotations

from collections.abc import Callable

from ..stream import AudioQueue
from ..text import split_text
from ..types import SpeechRequest
from .audio_slices import Slicer, Upsampler
from .espeak_library import EspeakLibrary, Pcm
from .voices import EspeakVoice

_MOST_CHARACTERS = 150  # said in one go: bounds how far it runs ahead of its reader, and how long the others wait


class FallbackRequest:
    """Speaks a request text chunk by text chunk, and gives its slices to the queue as there is room for them."""

    def __init__(self, request: SpeechRequest, queue: AudioQueue) -> None:
        self.request = request
        self.queue = queue
        self._texts = split_text(request.text, min(request.chunk_characters, _MOST_CHARACTERS))
        self._slicer = Slicer(request)
        self._next = 0  # of the texts; with ignore_stop they come round again
        self._heard = False  # since the texts last came round

    @property
    def wants_chunk(self) -> bool:
        """What was spoken so far has been given out, and more can be taken."""
        return self._slicer.wants_chunk and not self.queue.full and not self.queue.done

    def give_out(self) -> None:
        """Put as many slices as the queue has room for."""
        while not self.queue.full and not self.queue.done and (chunk := self._slicer.take()) is not None:
            self.queue.put(chunk)
        if self._slicer.speech_ended:
            self.queue.end()

    def speak_chunk(self, library: EspeakLibrary, voice: EspeakVoice, stopped: Callable[[], bool]) -> None:
        """Speak the next text chunk; stops within a few milliseconds once the reader leaves or `stopped` says so.

        Raises EngineFailed.
        """
        upsampler = Upsampler()

        def hear(pcm: Pcm) -> bool:
            self._heard = True
            self._slicer.push(upsampler.push(pcm))
            self.give_out()
            return not self.queue.done and not stopped()

        text = self._texts[self._next]
        ends_lap = self._next == len(self._texts) - 1
        is_last = ends_lap and not self.request.ignore_stop
        self._slicer.begin_chunk(is_last)
        # Exaggeration widens or narrows the melody; a sentence's pause belongs between chunks, not behind the last.
        library.synthesize(text, voice, round(100 * self.request.exaggeration), pause=not is_last, sink=hear)
        self._slicer.push(upsampler.flush())
        self._slicer.end_chunk(is_last=is_last or (ends_lap and not self._heard))
        self.give_out()
        self._next = 0 if ends_lap else self._next + 1
        self._heard = self._heard and not ends_lap
