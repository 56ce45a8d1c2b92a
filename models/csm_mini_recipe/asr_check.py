"""What a public recogniser hears: pocketsphinx with its own English model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_RATE = 16_000
_SILENCE = 0.3  # seconds before and behind: it wants to hear where speech begins


class Recogniser:
    """Needs the package pocketsphinx. Samples are float32 (samples,) at 24 kHz."""

    def __init__(self, choices: Sequence[str] = ()) -> None:
        """choices: lower-case sentences, of which `choose` picks one."""
        import pocketsphinx

        self._open: Any = pocketsphinx.Decoder(pocketsphinx.Config(loglevel="FATAL"))
        self._closed: Any = pocketsphinx.Decoder(pocketsphinx.Config(lm=None, loglevel="FATAL"))
        if choices:
            self._closed.add_jsgf_string("choice", f"#JSGF V1.0; grammar g; public <s> = {' | '.join(choices)};")
            self._closed.activate_search("choice")

    def choose(self, samples: npt.NDArray[np.float32]) -> str:
        """The one of the choices that was said."""
        return _hear(self._closed, samples)

    def transcribe(self, samples: npt.NDArray[np.float32]) -> str:
        """Whatever words were said."""
        return _hear(self._open, samples)


def _hear(decoder: Any, samples: npt.NDArray[np.float32]) -> str:
    import torchaudio.functional

    wave = torchaudio.functional.resample(torch.from_numpy(samples), 24_000, _RATE).numpy()
    pcm = (np.pad(wave, int(_SILENCE * _RATE)).clip(-1, 1) * 32767).astype(np.int16)
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return heard.hypstr if heard else ""


def word_errors(said: str, heard: str) -> int:
    """Words to put in, take out or exchange to make one of the other."""
    row = list(range(len(heard.split()) + 1))
    for i, word in enumerate(said.split(), 1):
        row, before = [i], row
        for j, other in enumerate(heard.split(), 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]
