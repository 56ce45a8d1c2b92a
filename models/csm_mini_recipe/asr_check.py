"""ASR check with pocketsphinx and its English model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_RATE = 16_000
_PADDING_SECONDS = 0.3  # silence before and after, for the decoder to find where speech begins


class Recogniser:
    """Requires the package pocketsphinx. Samples are float32 (samples,) at 24 kHz."""

    def __init__(self, choices: Sequence[str] = ()) -> None:
        """choices: lower-case sentences for `choose`."""
        import pocketsphinx

        self._open_decoder: Any = pocketsphinx.Decoder(pocketsphinx.Config(loglevel="FATAL"))
        self._grammar_decoder: Any = pocketsphinx.Decoder(pocketsphinx.Config(lm=None, loglevel="FATAL"))
        if choices:
            self._grammar_decoder.add_jsgf_string(
                "choice", f"#JSGF V1.0; grammar g; public <s> = {' | '.join(choices)};"
            )
            self._grammar_decoder.activate_search("choice")

    def choose(self, samples: npt.NDArray[np.float32]) -> str:
        """Closed-set recognition: the most likely of the choices."""
        return _recognise(self._grammar_decoder, samples)

    def transcribe(self, samples: npt.NDArray[np.float32]) -> str:
        """Open-vocabulary transcription."""
        return _recognise(self._open_decoder, samples)


def _recognise(decoder: Any, samples: npt.NDArray[np.float32]) -> str:
    import torchaudio.functional

    wave = torchaudio.functional.resample(torch.from_numpy(samples), 24_000, _RATE).numpy()
    pcm = (np.pad(wave, int(_PADDING_SECONDS * _RATE)).clip(-1, 1) * 32767).astype(np.int16)
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def word_errors(reference: str, hypothesis: str) -> int:
    """Word-level edit distance between reference and hypothesis: the numerator of WER."""
    row = list(range(len(hypothesis.split()) + 1))
    for i, word in enumerate(reference.split(), 1):
        row, before = [i], row
        for j, candidate in enumerate(hypothesis.split(), 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != candidate)))
    return row[-1]
