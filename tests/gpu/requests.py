"""Requests that the engine's tests share: greedy, with a voice, and sampled."""

from __future__ import annotations

import numpy as np

from engine import SpeechRequest, VoicePrompt


def voice() -> VoicePrompt:
    rng = np.random.default_rng(5)
    return VoicePrompt(rng.normal(0, 0.1, 30_000).astype(np.float32), transcript="These are my words.")


REQUESTS = [
    SpeechRequest("Greedy and alone.", temperature=0, max_frames=30),
    SpeechRequest("With a voice.", voice=voice(), temperature=0, max_frames=25),
    SpeechRequest("Drawn from a seed.", seed=3, max_frames=20),
]
