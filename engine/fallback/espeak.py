"""EspeakEngine: implements engine.Engine with espeak-ng. Needs no weights and runs on any machine."""

from __future__ import annotations

from ..config import EngineConfig
from ..interface import Progress
from ..stream import AudioQueue
from ..types import SpeechRequest, VoicePrompt
from .espeak_library import EspeakLibrary
from .request_state import FallbackRequest
from .slot_engine import SlotEngine
from .voices import VoiceSelector


class EspeakEngine(SlotEngine):
    """A turn is one text chunk, so that a slot is at most that and a full audio queue ahead of its reader.

    Sampling parameters (temperature, top_k, guidance, seed) have no effect; equal requests give equal audio.
    """

    name = "espeak-ng"

    def __init__(self, config: EngineConfig, report: Progress) -> None:
        """Raises CheckpointError if espeak-ng does not load."""
        report(0.0, "loading espeak-ng")
        super().__init__(config)  # one thread: the library speaks one text at a time
        self._library = EspeakLibrary()
        self._voices = VoiceSelector()
        self._start_threads()
        report(1.0, "espeak-ng is ready")

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        self._voices.for_recording(voice)

    def _request(self, request: SpeechRequest, queue: AudioQueue) -> FallbackRequest:
        return FallbackRequest(request, queue, self._library, self._voices, stopped=lambda: self._closing)

    def _detail(self) -> dict[str, object]:
        return {"model": f"espeak-ng {self._library.version}"}
