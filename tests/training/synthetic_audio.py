"""Synthetic recordings: noise bursts with pauses at given times."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from training.audio import Samples

RATE = 24_000


def speech(seconds: float, pauses: tuple[float, ...] = (), pause_seconds: float = 0.5, seed: int = 0) -> Samples:
    """float32 (samples,): noise, silenced around the given pause centres, over a faint hiss."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    loud = np.ones(times.size)
    for centre in pauses:
        loud[np.abs(times - centre) < pause_seconds / 2] = 0
    return (rng.normal(0, 0.1, times.size) * loud + rng.normal(0, 1e-4, times.size)).astype(np.float32)


def write_wav(path: Path, samples: Samples, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pcm = np.rint(np.clip(samples, -1, 32767 / 32768) * 32768).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(np.repeat(pcm, channels).tobytes())
    return path
