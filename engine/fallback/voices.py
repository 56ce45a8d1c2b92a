"""Which of espeak-ng's voices stands for a speaker id or for a recording."""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass, replace

import numpy as np

from ..types import SpeechRequest, VoicePrompt
from .pitch import median_pitch


@dataclass(frozen=True)
class EspeakVoice:
    """American English in one of espeak-ng's variants.

    hertz: median pitch of the variant at the middle setting, as measured.
    pitch: espeak-ng's setting, 0 to 99; 50 is the variant's own.
    """

    variant: str
    hertz: float
    pitch: int = 50

    @property
    def name(self) -> str:
        return f"en-us+{self.variant}"

    def near(self, hertz: float) -> EspeakVoice:
        """This voice at about that pitch, as far as it stays intelligible.

        Measured: 70 steps of the setting are an octave.
        """
        pitch = round(50 + 70 * math.log2(hertz / self.hertz))
        return replace(self, pitch=min(max(pitch, 10), 90))


# The variants that a speech recogniser understands best, high and low. None of Klatt's kind: those never sound
# the same twice, their noise comes from the process's own random numbers.
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
_BORDER_HERTZ = 150  # between high and low
_MOST_KNOWN = 1024  # recordings whose voice is remembered


def voice_of_speaker(speaker: int) -> EspeakVoice:
    return SPEAKERS[speaker % len(SPEAKERS)]


def voice_of_recording(recording: VoicePrompt) -> EspeakVoice:
    """The voice nearest in pitch; which of the high or low ones, the content decides, so it is always the same."""
    digest = hashlib.sha256(np.ascontiguousarray(recording.samples).tobytes()).digest()
    hertz = median_pitch(recording.samples, recording.sample_rate)
    if hertz is None:  # nothing in it sounds like a voice
        return SPEAKERS[digest[0] % len(SPEAKERS)]
    alike = HIGH if hertz >= _BORDER_HERTZ else LOW
    return alike[digest[0] % len(alike)].near(hertz)


class KnownVoices:
    """Remembers which voice a recording got: listening to it takes milliseconds."""

    def __init__(self) -> None:
        self._known: dict[str, EspeakVoice] = {}
        self._lock = threading.Lock()

    def of_request(self, request: SpeechRequest) -> EspeakVoice:
        return voice_of_speaker(request.speaker) if request.voice is None else self.of_recording(request.voice)

    def of_recording(self, recording: VoicePrompt) -> EspeakVoice:
        with self._lock:
            voice = self._known.get(recording.key)
        if voice is None:
            voice = voice_of_recording(recording)
            with self._lock:
                self._known[recording.key] = voice
                if len(self._known) > _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
        return voice
