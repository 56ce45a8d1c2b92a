"""State of one request in a slot of the fallback engine."""

from __future__ import annotations

from collections.abc import Callable

from ..stream import AudioQueue
from ..text import SpokenChunk, request_chunks
from ..text_feed import NextPart
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
        # to be synthesized next; None after the last, and where it is not written yet
        self._chunk: SpokenChunk | None = next(self._chunks)
        self._next_part = NextPart(request.more, queue.on_change)
        self._slicer = AudioSlicer(request)
        self._has_audio = False  # any audio since the text last began

    @property
    def silence(self) -> int | None:
        """Samples of silence that the request is, if its text is nothing but pauses."""
        return self._chunk.pause_before if self._chunk is not None and not self._chunk.text else None

    @property
    def due(self) -> float:
        return self._slicer.due

    @property
    def waiting_for_text(self) -> bool:
        """All is emitted that was written."""
        return self._slicer.needs_chunk and self._next_part.missing

    def take_turn(self) -> None:
        self.emit_slices()
        if self._slicer.needs_chunk and not (self._next_part.missing or self.queue.full or self.queue.done):
            self.synthesize_chunk()

    def emit_slices(self) -> None:
        """Put ready slices into the queue while it has space; end it with the speech."""
        while not self.queue.full and not self.queue.done and (chunk := self._slicer.take()) is not None:
            self.queue.put(chunk)
        if self._slicer.speech_ended:
            self.queue.end()

    def synthesize_chunk(self) -> None:
        """Synthesize the next text chunk; stops within milliseconds once the reader leaves or the engine closes.

        Raises EngineFailed, and InvalidRequest for a part of the text that was written meanwhile.
        """
        resampler = Resampler()

        def on_audio(pcm: Pcm) -> bool:
            self._has_audio = True
            self._slicer.push(resampler.push(pcm))
            self.emit_slices()
            return not self.queue.done and not self._stopped()

        chunk = self._chunk or self._read_chunk()
        is_last = chunk.is_last and not self.request.ignore_stop
        self._slicer.begin_chunk(is_last, chunk.pause_before, chunk.part)
        self._slicer.words.extend(chunk.words)
        # Exaggeration sets the pitch range. The sentence pause goes between chunks, not after the last one, and not
        # before a pause that the text asks for, nor before a gap between turns.
        pitch_range = round(100 * self.request.exaggeration)
        pause = not (is_last or chunk.pause_after or chunk.ends_turn)
        if chunk.text:
            voice = self._voices.for_turn(self.request.turn(chunk.part))
            self._library.synthesize(chunk.text, voice, pitch_range, pause=pause, sink=on_audio)
            self._slicer.push(resampler.flush())
        self._slicer.end_chunk(
            is_last or (chunk.is_last and not self._has_audio), chunk.pause_after, ends_part=chunk.ends_part
        )
        self.emit_slices()
        self._has_audio = self._has_audio and not chunk.is_last
        if chunk.ends_part and self.request.more is not None:
            self._chunk = None
            self._next_part.follows(chunk.part)
        else:
            self._chunk = next(self._chunks, None)

    def _read_chunk(self) -> SpokenChunk:
        """The chunk after the last, of a text that is repeated (ignore_stop), or that is written meanwhile."""
        if self.request.more is None:
            self._chunks = request_chunks(self.request, _MAX_CHUNK_CHARACTERS)
        return next(self._chunks)
