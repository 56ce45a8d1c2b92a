"""Voice activity detection with silero-vad's ONNX weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import inference_session

from ..audio.encoders.base import Samples
from ..errors import ComponentFailed

RATE = 16_000
WINDOW_SAMPLES = 512  # 32 ms
_CONTEXT_SAMPLES = 64  # of the window before, that the network sees too


class SileroVad:
    """The network, shared by all sessions. Thread-safe. Raises ComponentFailed if it cannot be loaded."""

    def __init__(self) -> None:
        try:
            self._network = inference_session(_weights())  # one thread: a window is too small to share
        except Exception as error:
            raise ComponentFailed(
                f"voice activity detection cannot be loaded ({type(error).__name__}: {error}): set turn_detection to "
                "null and commit the audio yourself, or ask the operator to run `make install`",
                code="vad_failed",
            ) from error

    def run(self, window: npt.NDArray[np.float32], state: npt.NDArray[np.float32]) -> tuple[float, Any]:
        """The probability of speech in a window with its context, (1, 576), and the next state (2, 1, 128)."""
        probability, following = self._network.run(
            None, {"input": window, "state": state, "sr": np.array(RATE, np.int64)}
        )
        return float(probability[0, 0]), following


class VadStream:
    """The voice activity of one session: samples in, a probability for each window of 32 ms out."""

    def __init__(self, vad: SileroVad) -> None:
        self._vad = vad
        self._state = np.zeros((2, 1, 128), np.float32)
        self._samples: Samples = np.zeros(_CONTEXT_SAMPLES, np.float32)  # the context, and what fills no window yet

    def next_window(self) -> Samples | None:
        """The samples (512,) of the next window, if they are there."""
        end = _CONTEXT_SAMPLES + WINDOW_SAMPLES
        return self._samples[_CONTEXT_SAMPLES:end] if len(self._samples) >= end else None

    def push(self, samples: Samples) -> None:
        """Add samples, float32 (samples,) at 16 kHz."""
        self._samples = np.concatenate([self._samples, samples])

    def step(self) -> float:
        """The probability of speech in the next window, which must be there."""
        window = self._samples[None, : _CONTEXT_SAMPLES + WINDOW_SAMPLES]
        probability, self._state = self._vad.run(np.ascontiguousarray(window), self._state)
        self._samples = self._samples[WINDOW_SAMPLES:]
        return probability


def _weights() -> Path:
    """The file in silero-vad's package, which is not imported: that would import torch."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package silero-vad is not installed")
    return Path(found.origin).parent / "data" / "silero_vad.onnx"
