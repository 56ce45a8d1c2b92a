"""Maps speaker ids and voice recordings to espeak-ng voices."""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass, replace

import numpy as np

from ..types import DialogueTurn, VoicePrompt
from .pitch import median_pitch


@dataclass(frozen=True)
class EspeakVoice:
    """English, American unless `language` says else, with one of espeak-ng's voice variants.

    hertz: measured median pitch of the variant at the default setting.
    pitch: espeak-ng's pitch setting, 0 to 99; 50 is the default.
    """

    variant: str
    hertz: float
    pitch: int = 50
    language: str = "en-us"

    @property
    def name(self) -> str:
        return f"{self.language}+{self.variant}"

    def with_pitch(self, hertz: float) -> EspeakVoice:
        """This voice at about the given pitch, clamped to settings that stay intelligible.

        Measured: 70 steps of the setting are one octave.
        """
        pitch = round(50 + 70 * math.log2(hertz / self.hertz))
        return replace(self, pitch=min(max(pitch, 10), 90))


# The high and low variants that a speech recogniser understands best. Klatt variants are excluded: their noise uses the
# process's random numbers, so they are not reproducible.
HIGH = (
    EspeakVoice("f2", 190),
    EspeakVoice("f5", 200),
    EspeakVoice("f3", 204),
    EspeakVoice("f1", 175),
    EspeakVoice("f4", 175),
)
LOW = (
    EspeakVoice("m2", 99),
    EspeakVoice("adam", 99),
    EspeakVoice("Diogo", 102),
    EspeakVoice("m6", 99),
    EspeakVoice("edward", 99),
)
SPEAKERS = tuple(voice for pair in zip(HIGH, LOW, strict=True) for voice in pair)  # speaker 0 is f2
_HIGH_FROM_HERTZ = 150  # voices at or above it use a high variant
_MAX_CACHED = 1024  # recordings


def voice_of_speaker(speaker: int) -> EspeakVoice:
    return SPEAKERS[speaker % len(SPEAKERS)]


def voice_of_recording(recording: VoicePrompt) -> EspeakVoice:
    """A voice of the recording's pitch. A hash of the samples picks the variant, so the result is deterministic."""
    digest = hashlib.sha256(np.ascontiguousarray(recording.samples).tobytes()).digest()
    hertz = median_pitch(recording.samples, recording.sample_rate)
    if hertz is None:  # no voiced speech
        return SPEAKERS[digest[0] % len(SPEAKERS)]
    variants = HIGH if hertz >= _HIGH_FROM_HERTZ else LOW
    return variants[digest[0] % len(variants)].with_pitch(hertz)


class VoiceSelector:
    """Selects voices and caches them by recording, because pitch estimation takes milliseconds."""

    def __init__(self) -> None:
        self._cache: dict[str, EspeakVoice] = {}
        self._lock = threading.Lock()

    def for_turn(self, turn: DialogueTurn) -> EspeakVoice:
        return voice_of_speaker(turn.speaker) if turn.voice is None else self.for_recording(turn.voice)

    def for_recording(self, recording: VoicePrompt) -> EspeakVoice:
        with self._lock:
            voice = self._cache.get(recording.key)
        if voice is None:
            voice = voice_of_recording(recording)
            with self._lock:
                self._cache[recording.key] = voice
                if len(self._cache) > _MAX_CACHED:
                    del self._cache[next(iter(self._cache))]
        return voice
