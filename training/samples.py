"""What the model says while it is taught, spoken by the project's own engine from weights of that moment."""

from __future__ import annotations

import logging
import shutil
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import SAMPLE_RATE, EngineConfig, EngineError, SpeechRequest, SpeechSegment, load_engine
from engine.types import Samples as Sound

from .example import Example
from .export import export_model
from .lora import merged_tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """Says one text every time it is called, into DIRECTORY/step-000100.wav. base: whose files go with the weights.

    voice: a clip to speak like; None speaks without any. The engine is loaded anew each time, on the model's device.
    """

    base: Path
    directory: Path
    text: str
    speaker: int = 0
    voice: Example | None = None
    seed: int = 0

    def __call__(self, steps: int, model: Any) -> None:
        said = () if self.voice is None else (SpeechSegment(self.voice.text, self.voice.codes, self.voice.speaker),)
        request = SpeechRequest(self.text, speaker=self.speaker, history=said, seed=self.seed)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step-{steps:06d}.wav"
        checkpoint = self.directory / ".checkpoint"
        shutil.rmtree(checkpoint, ignore_errors=True)  # of a run that was killed
        half = model.device.type == "cuda" and torch.cuda.is_bf16_supported()
        try:
            export_model(self.base, merged_tensors(model), checkpoint, torch.bfloat16 if half else None)
            with _as_it_was():
                engine = load_engine(EngineConfig(str(checkpoint), device=model.device.type, slots=1, compile="off"))
                try:
                    samples = engine.generate(request).samples
                finally:
                    engine.close()
        except EngineError as error:  # a sample is worth no run
            log.warning("no sample behind step %d: %s", steps, error)
        else:
            write_wav(path, samples)
        finally:
            shutil.rmtree(checkpoint, ignore_errors=True)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """An engine settles how this process computes, as it likes it best; a run must go on as it began."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def write_wav(path: Path, samples: Sound) -> None:
    """16 bits, mono, 24 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).round().astype(np.dtype("<i2")).tobytes())
