"""One request in a slot of espeak-ng's engine."""

from __future__ import annotations

from collections.abc import Callable

from ..stream import AudioQueue
from ..types import SpeechRequest
from .audio_slices import Resampler
from .espeak_library import EspeakLibrary, Pcm
from .sliced_request import SlicedRequest
from .voices import VoiceSelector


class FallbackRequest(SlicedRequest):
    """Makes a text chunk per turn."""

    def __init__(
        self,
        request: SpeechRequest,
        queue: AudioQueue,
        library: EspeakLibrary,
        voices: VoiceSelector,
        stopped: Callable[[], bool],
    ) -> None:
        """stopped: returns True once the engine closes. Raises InvalidRequest."""
        super().__init__(request, queue)
        self._library = library
        self._voices = voices
        self._stopped = stopped

    def synthesize(self) -> None:
        """The next text chunk; stops within milliseconds once the reader leaves or the engine closes.

        Raises EngineFailed, and InvalidRequest for a part of the text that was written meanwhile.
        """
        resampler = Resampler()

        def on_audio(pcm: Pcm) -> bool:
            self.push(resampler.push(pcm))
            self.emit_slices()
            return not self.queue.done and not self._stopped()

        chunk = next(self.chunks)
        self.begin_chunk(chunk)
        self._slicer.words.extend(chunk.words)
        if chunk.text:
            voice = self._voices.for_turn(self.request.turn(chunk.part))
            pitch_range = round(100 * self.request.exaggeration)  # that is how exaggeration is heard
            self._library.synthesize(chunk.text, voice, pitch_range, pause=self.pauses_after(chunk), sink=on_audio)
            self._slicer.push(resampler.flush())
        self.end_chunk(chunk)
