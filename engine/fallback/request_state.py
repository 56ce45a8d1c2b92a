"""State of one request in a slot of the fallback engine."""

from __future__ import annotations

from collections.abc import Callable

from ..stream import AudioQueue
from ..text import SpokenChunk, request_chunks
from ..types import SpeechRequest
from .audio_slices import AudioSlicer, Resampler
from .espeak_library import EspeakLibrary, Pcm
from .voices import VoiceSelector

_MAX_CHUNK_CHARACTERS = 150  # bounds how far a slot runs ahead of its reader, and how long other slots wait


class FallbackRequest:
    """Synthesizes a request text chunk by text chunk and puts slices into its queue while there is space.

    The first text chunk is planned here, each other one when it is due. Raises InvalidRequest.
    """

    def __init__(
        self,
        request: SpeechRequest,
        queue: AudioQueue,
        library: EspeakLibrary,
        voices: VoiceSelector,
        stopped: Callable[[], bool],
    ) -> None:
        """stopped: returns True once the engine closes."""
        self.request = request
        self.queue = queue
        self._library = library
        self._voices = voices
        self._stopped = stopped
        self._chunks = request_chunks(request, _MAX_CHUNK_CHARACTERS)
        self._chunk: SpokenChunk | None = next(self._chunks)  # to be synthesized next; None after the last
        self._slicer = AudioSlicer(request)
        self._has_audio = False  # any audio since the text last began

    @property
    def silence(self) -> int | None:
        """Samples of silence that the request is, if its text is nothing but pauses."""
        return self._chunk.pause_before if self._chunk is not None and not self._chunk.text else None

    @property
    def due(self) -> float:
        return self._slicer.due

    def take_turn(self) -> None:
        self.emit_slices()
        if self._slicer.needs_chunk and not self.queue.full and not self.queue.done:
            self.synthesize_chunk()

    def emit_slices(self) -> None:
        """Put ready slices into the queue while it has space; end it with the speech."""
        while not self.queue.full and not self.queue.done and (chunk := self._slicer.take()) is not None:
            self.queue.put(chunk)
        if self._slicer.speech_ended:
            self.queue.end()

    def synthesize_chunk(self) -> None:
        """Synthesize the next text chunk; stops within milliseconds once the reader leaves or the engine closes.

        Raises EngineFailed.
        """
        resampler = Resampler()

        def on_audio(pcm: Pcm) -> bool:
            self._has_audio = True
            self._slicer.push(resampler.push(pcm))
            self.emit_slices()
            return not self.queue.done and not self._stopped()

        if self._chunk is None:  # with ignore_stop the text is repeated
            self._chunks = request_chunks(self.request, _MAX_CHUNK_CHARACTERS)
            self._chunk = next(self._chunks)
        chunk = self._chunk
        is_last = chunk.is_last and not self.request.ignore_stop
        self._slicer.begin_chunk(is_last, chunk.pause_before)
        self._slicer.words.extend(chunk.words)
        # Exaggeration sets the pitch range. The sentence pause goes between chunks, not after the last one, and not
        # before a pause that the text asks for.
        pitch_range, pause = round(100 * self.request.exaggeration), not is_last and not chunk.pause_after
        voice = self._voices.for_request(self.request)
        self._library.synthesize(chunk.text, voice, pitch_range, pause=pause, sink=on_audio)
        self._slicer.push(resampler.flush())
        self._slicer.end_chunk(is_last or (chunk.is_last and not self._has_audio), chunk.pause_after)
        self.emit_slices()
        self._chunk = next(self._chunks, None)
        self._has_audio = self._has_audio and not chunk.is_last
