"""KokoroEngine: implements engine.Engine with Kokoro-82M on the CPU."""

from __future__ import annotations

from ..config import KOKORO_MODEL, EngineConfig
from ..fallback.espeak_library import EspeakLibrary
from ..fallback.slot_engine import SlotEngine
from ..interface import Progress
from ..machine_limits import MachineLimits
from ..stream import AudioQueue
from ..types import SpeechRequest, VoicePrompt
from .model import KokoroModel
from .request import KokoroRequest
from .voices import VOICES, VoiceMatcher

_MAX_THREADS = 4  # of one phrase: more do not make it faster


class KokoroEngine(SlotEngine):
    """English in the voices of voices.py. It does not clone: a recording is spoken by the nearest of them.

    A turn is one window of 0.4 to 4 s of audio; a cancelled request frees its slot after it. Sampling parameters
    (temperature, top_k, guidance, exaggeration, seed) have no effect; equal requests give equal audio.
    """

    name = KOKORO_MODEL

    def __init__(self, config: EngineConfig, report: Progress) -> None:
        """Raises CheckpointError if a package that it needs does not load."""
        report(0.0, "loading kokoro")
        threads = max(1, min(MachineLimits().cores().threads(config.workers), _MAX_THREADS))
        super().__init__(config, threads)
        self._library = EspeakLibrary()
        self._model = KokoroModel(threads)
        self._voices = VoiceMatcher()
        self._start_threads()
        report(1.0, "kokoro is ready")

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        self._voices.for_recording(voice)

    def _request(self, request: SpeechRequest, queue: AudioQueue) -> KokoroRequest:
        return KokoroRequest(request, queue, self._model, self._library, self._voices)

    def _detail(self) -> dict[str, object]:
        return {
            "model": "Kokoro-82M",
            "voices": [voice.name for voice in VOICES],
            "recordings": "each is spoken by the nearest of these voices: Kokoro does not clone",
        }
