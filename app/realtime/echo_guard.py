"""Tells the assistant's own voice, picked up by the user's microphone, from the user's.

The page and phones cancel echo themselves. This guards the interruption where they do not, or leave a rest: what
correlates with what is being played is an echo. A user who speaks at the same time is louder than the echo, and the
correlation falls.
"""

from __future__ import annotations

import time
from collections import deque
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from engine import SAMPLE_RATE

from ..audio.encoders.base import Samples
from ..audio.rate_converter import RateConverter
from .vad import RATE

_WINDOWS = 12  # 384 ms of the microphone are compared
_DELAY_SECONDS = 1.2  # at most, between the time reckoned for a sample's playback and its echo
_EARLY_SECONDS = 0.2  # at most, that a client plays before the time reckoned
_THRESHOLD = 0.33  # two voices reach 0.28, an echo in a small room 0.4, without a room 1
_KEPT_SECONDS = 2.5  # of what was played

_Played = tuple[float, NDArray[np.float16]]  # when it begins to play, samples at 16 kHz


class EchoGuard:
    """One session's. One thread says what is played, another what is heard."""

    def __init__(self) -> None:
        self._resampler: RateConverter | None = None
        self._lock = Lock()  # of what is played
        self._played: deque[_Played] = deque()
        self._ends_at = 0.0
        self._heard: deque[Samples] = deque(maxlen=_WINDOWS)  # of the microphone

    def played(self, samples: Samples) -> None:
        """Record audio that was sent, float32 (samples,) at 24 kHz. It plays after what was sent before."""
        now = time.monotonic()
        if self._resampler is None or now > self._ends_at:
            self._resampler = RateConverter(SAMPLE_RATE, RATE)
        pieces = _sharpened(self._resampler.push(samples)).astype(np.float16)
        with self._lock:
            start = max(self._ends_at, now)
            self._ends_at = start + samples.size / SAMPLE_RATE
            if pieces.size:
                self._played.append((start, pieces))

    def stopped(self) -> None:
        """What has not been played yet will not be."""
        now = time.monotonic()
        with self._lock:
            while self._played and self._played[-1][0] > now:
                self._played.pop()
            self._ends_at = min(self._ends_at, now)

    def listen(self, window: Samples) -> None:
        """Take a window of the microphone, float32 (512,) at 16 kHz."""
        self._heard.append(window)

    def is_echo(self) -> bool:
        """Whether the newest windows of the microphone are what was played."""
        now = time.monotonic()
        with self._lock:
            while self._played and self._played[0][0] + len(self._played[0][1]) / RATE < now - _KEPT_SECONDS:
                self._played.popleft()
            played = list(self._played)
        if not played or not self._heard:
            return False
        heard = _sharpened(np.concatenate(self._heard))
        reference = _on_the_clock(played, now - len(heard) / RATE - _DELAY_SECONDS, now + _EARLY_SECONDS)
        return _likeness(heard, reference) > _THRESHOLD


def _on_the_clock(played: list[_Played], start: float, end: float) -> Samples:
    """What is played between two points in time."""
    reference = np.zeros(int((end - start) * RATE), np.float32)
    for begins, samples in played:
        at = int((begins - start) * RATE)
        first, last = max(at, 0), min(at + len(samples), len(reference))
        if first < last:
            reference[first:last] = samples[first - at : last - at]
    return reference


def _sharpened(samples: Samples) -> Samples:
    """The first difference: without it the low tones that all voices share would look alike."""
    return np.diff(samples, prepend=samples[:1])


def _likeness(heard: Samples, reference: Samples) -> float:
    """The largest normalised cross-correlation of `heard` with any part of the reference, 0 to 1."""
    length = len(heard)
    energy = float(heard @ heard)
    if length > len(reference) or energy == 0:
        return 0.0
    size = 1 << (len(reference) + length - 1).bit_length()
    spectrum = np.fft.rfft(reference, size) * np.conj(np.fft.rfft(heard, size))
    correlation = np.fft.irfft(spectrum, size)[: len(reference) - length + 1]
    sums = np.concatenate([[0.0], np.cumsum(reference.astype(np.float64) ** 2)])
    energies = sums[length:] - sums[:-length]
    floor = 1e-3 * energies.max() + 1e-12  # parts that are almost silent resemble anything
    return float(np.max(np.abs(correlation) / np.sqrt(np.maximum(energies, floor) * energy)))
