"""Whether a turn sounds finished, by Smart Turn's ONNX weights, which are in Pipecat's package.

The network hears the end of a turn, intonation included, and gives the probability that nothing follows. Its input is
that of Whisper: a log-mel spectrogram of 80 bands (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak
Supervision", section 2.2), on Slaney's mel scale.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import inference_session

from ..audio.encoders.base import Samples
from ..errors import ComponentFailed
from .vad import RATE

SECONDS = 8  # of the turn's end, that the network hears
_SAMPLES = SECONDS * RATE
_WINDOW, _HOP, _BANDS = 400, 160, 80  # samples, samples, mel bands
_WEIGHTS = Path("audio", "turn", "smart_turn", "data")  # in Pipecat's package


class SmartTurn:
    """The network, shared by all sessions. Thread-safe. Raises ComponentFailed if it cannot be loaded."""

    def __init__(self, weights: Path) -> None:
        try:
            self._network = inference_session(weights)
        except Exception as error:
            raise ComponentFailed(
                f"Smart Turn cannot be loaded from {weights.name} ({type(error).__name__}: {error}): install another "
                "version of pipecat-ai, or set SMART_TURN=false",
                code="smart_turn_failed",
            ) from error

    def finished(self, turn: Samples) -> float:
        """The probability that the user has finished, 0 to 1.

        turn: float32 (samples,) at 16 kHz, from its start or any time before to the silence after its last word.
        """
        heard = turn[-_SAMPLES:]
        padded = np.pad(heard.astype(np.float64), (_SAMPLES - len(heard), 0))
        [probability] = self._network.run(None, {"input_features": log_mel(padded)[None]})
        return float(np.ravel(probability)[0])


def find_weights() -> Path | None:
    """The newest weights in Pipecat's package, which is not imported: that would take seconds. None without it."""
    found = importlib.util.find_spec("pipecat")
    if found is None or found.origin is None:
        return None
    return max((Path(found.origin).parent / _WEIGHTS).glob("smart-turn-v3*-cpu.onnx"), default=None)


def log_mel(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Whisper's features of audio at 16 kHz, (samples,), made equally loud before: (80, samples // 160)."""
    loud = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    padded = np.pad(loud, _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[:-_HOP:_HOP][: len(samples) // _HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    bands = np.log10(np.maximum(_mel_filters() @ power.T, 1e-10))
    features: Any = (np.maximum(bands, bands.max() - 8) + 4) / 4
    return np.asarray(features, np.float32)


@lru_cache(maxsize=1)
def _mel_filters() -> npt.NDArray[np.float64]:
    """Triangles of equal area, evenly spaced on the mel scale from 0 to 8 kHz: (80, 201)."""
    edges = _hertz(np.linspace(0, _mel(RATE / 2), _BANDS + 2))
    bins = np.linspace(0, RATE / 2, _WINDOW // 2 + 1)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * 2 / (right - left))


# Slaney's mel scale: linear below 1 kHz, where it is at 15, and logarithmic above.
_HERTZ_PER_MEL, _LINEAR_TO_MEL, _MELS_PER_E = 200 / 3, 15.0, 27 / math.log(6.4)


def _mel(hertz: float) -> float:
    """Of a frequency above 1 kHz."""
    return _LINEAR_TO_MEL + _MELS_PER_E * math.log(hertz / 1000)


def _hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mels < _LINEAR_TO_MEL, mels * _HERTZ_PER_MEL, 1000 * np.exp((mels - _LINEAR_TO_MEL) / _MELS_PER_E))
