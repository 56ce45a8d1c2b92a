"""KokoroEngine: implements engine.Engine with Kokoro-82M on the CPU."""

from __future__ import annotations

import logging

from ..config import KOKORO_MODEL, EngineConfig
from ..errors import CheckpointError
from ..fallback.espeak_library import EspeakLibrary
from ..fallback.slot_engine import SlotEngine
from ..interface import Progress
from ..machine_limits import MachineLimits
from ..stream import AudioQueue
from ..types import SpeechRequest, VoicePrompt
from .model import KokoroModel
from .request import KokoroRequest
from .voices import VOICES, KokoroVoice, VoiceMatcher

log = logging.getLogger(__name__)

_MAX_THREADS = 4  # of one phrase: more do not make it faster


class KokoroEngine(SlotEngine):
    """English, in Kokoro's own voices where the Hub has sent them, else in those of voices.py.

    It does not clone: a recording is spoken by the nearest of its voices.

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
        self._voices = VoiceMatcher(self._english_voices(config, report) or VOICES)
        self._start_threads()
        report(1.0, "kokoro is ready")

    def _english_voices(self, config: EngineConfig, report: Progress) -> tuple[KokoroVoice, ...]:
        """Kokoro's own English voices; none if they cannot be had."""
        if not config.kokoro_voices:
            return ()
        from .hub_voices import fetch_styles, voices_of  # only here: its packages take long to import

        report(0.5, f"looking for English voices in {config.kokoro_voices}")
        try:
            styles = fetch_styles(config.kokoro_voices, config.hub_token)
        except CheckpointError as error:
            log.info("kokoro speaks in the voices that are installed, because its English ones are missing: %s", error)
            return ()
        return voices_of(styles, self._model, self._library)

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        self._voices.pitch(voice)

    def _request(self, request: SpeechRequest, queue: AudioQueue) -> KokoroRequest:
        return KokoroRequest(request, queue, self._model, self._library, self._voices)

    def _detail(self) -> dict[str, object]:
        return {
            "model": "Kokoro-82M",
            "voices": [voice.name for voice in self._voices.voices],
            "fingerprint": " ".join(style for voice in self._voices.voices for style in voice.mix),
            "recordings": "each is spoken by the nearest of these voices: Kokoro does not clone",
        }
