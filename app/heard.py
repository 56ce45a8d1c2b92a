"""What was said last to a listener, so that what comes next is said in the same breath."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE, VoicePrompt

LONGEST_SECONDS = 10.0  # of what was said; 125 of the model's 2048 positions


@dataclass(frozen=True, eq=False)
class Heard:
    """Words, and the sound they had: float32 (samples,) at 24 kHz.

    most_seconds: that the engine takes as a voice; None is no bound.
    """

    words: str
    samples: npt.NDArray[np.float32]
    most_seconds: float | None = None

    def behind(self, voice: VoicePrompt | None) -> VoicePrompt | None:
        """The voice with what was heard behind it, as if both were one recording.

        The voice itself stays in front, so that it does not drift from text to text. It comes back as it is where
        its words are not known, or both together would be too long.
        """
        if voice is None or not voice.transcript or voice.sample_rate != SAMPLE_RATE or not self.samples.size:
            return voice
        seconds = self.samples.size / SAMPLE_RATE
        if seconds > LONGEST_SECONDS or voice.seconds + seconds > (self.most_seconds or float("inf")):
            return voice
        samples = np.concatenate([voice.samples, self.samples])
        return VoicePrompt(samples, f"{voice.transcript} {self.words}", SAMPLE_RATE, voice.speaker)
