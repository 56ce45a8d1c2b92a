"""State of one request in a slot of the fallback engine."""

from __future__ import annotations

from collections.abc import Callable

from ..stream import AudioQueue
from ..text import split_text
from ..types import SpeechRequest
from .audio_slices import AudioSlicer, Resampler
from .espeak_library import EspeakLibrary, Pcm
from .voices import EspeakVoice

_MAX_CHUNK_CHARACTERS = 150  # bounds how far a slot runs ahead of its reader, and how long other slots wait


class FallbackRequest:
    """Synthesizes a request text chunk by text chunk and puts slices into its queue while there is space."""

    def __init__(self, request: SpeechRequest, queue: AudioQueue) -> None:
        self.request = request
        self.queue = queue
        self._texts = split_text(request.text, min(request.chunk_characters, _MAX_CHUNK_CHARACTERS))
        self._slicer = AudioSlicer(request)
        self._next = 0  # index into _texts; with ignore_stop it wraps around
        self._has_audio = False  # any audio since the index last wrapped around

    @property
    def needs_chunk(self) -> bool:
        """True if all synthesized audio has been emitted and the queue has space."""
        return self._slicer.needs_chunk and not self.queue.full and not self.queue.done

    def emit_slices(self) -> None:
        """Put ready slices into the queue while it has space; end it with the speech."""
        while not self.queue.full and not self.queue.done and (chunk := self._slicer.take()) is not None:
            self.queue.put(chunk)
        if self._slicer.speech_ended:
            self.queue.end()

    def synthesize_chunk(self, library: EspeakLibrary, voice: EspeakVoice, stopped: Callable[[], bool]) -> None:
        """Synthesize the next text chunk; stops within milliseconds once the reader leaves or `stopped` returns True.

        Raises EngineFailed.
        """
        resampler = Resampler()

        def on_audio(pcm: Pcm) -> bool:
            self._has_audio = True
            self._slicer.push(resampler.push(pcm))
            self.emit_slices()
            return not self.queue.done and not stopped()

        text = self._texts[self._next]
        is_last_text = self._next == len(self._texts) - 1
        is_last = is_last_text and not self.request.ignore_stop
        self._slicer.begin_chunk(is_last)
        # Exaggeration sets the pitch range. The sentence pause goes between chunks, not after the last one.
        library.synthesize(text, voice, round(100 * self.request.exaggeration), pause=not is_last, sink=on_audio)
        self._slicer.push(resampler.flush())
        self._slicer.end_chunk(is_last=is_last or (is_last_text and not self._has_audio))
        self.emit_slices()
        self._next = 0 if is_last_text else self._next + 1
        self._has_audio = self._has_audio and not is_last_text
