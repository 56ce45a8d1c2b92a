"""Synthesizes a sample text with the engine from the current weights during training."""

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
from engine.types import Samples

from .example import Example
from .export import export_model
from .lora import merged_tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleWriter:
    """Synthesizes one text on every call, to DIRECTORY/step-000100.wav. base: directory of the base checkpoint.

    voice: clip used as a voice prompt, or None. The engine is loaded for each call, on the model's device.
    """

    base: Path
    directory: Path
    text: str
    speaker: int = 0
    voice: Example | None = None
    seed: int = 0

    def __call__(self, steps: int, model: Any) -> None:
        history = () if self.voice is None else (SpeechSegment(self.voice.text, self.voice.codes, self.voice.speaker),)
        request = SpeechRequest(self.text, speaker=self.speaker, history=history, seed=self.seed)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step-{steps:06d}.wav"
        checkpoint = self.directory / ".checkpoint"
        shutil.rmtree(checkpoint, ignore_errors=True)  # left by a killed run
        use_bfloat16 = model.device.type == "cuda" and torch.cuda.is_bf16_supported()
        try:
            export_model(self.base, merged_tensors(model), checkpoint, torch.bfloat16 if use_bfloat16 else None)
            with _preserve_torch_settings():
                engine = load_engine(EngineConfig(str(checkpoint), device=model.device.type, slots=1, compile="off"))
                try:
                    samples = engine.generate(request).samples
                finally:
                    engine.close()
        except EngineError as error:  # a failed sample must not end the run
            log.warning("sample after step %d failed: %s", steps, error)
        else:
            write_wav(path, samples)
        finally:
            shutil.rmtree(checkpoint, ignore_errors=True)


@contextmanager
def _preserve_torch_settings() -> Iterator[None]:
    """Restore the process-wide torch settings that loading an engine changes."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def write_wav(path: Path, samples: Samples) -> None:
    """Write 16-bit mono PCM at 24 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).round().astype(np.dtype("<i2")).tobytes())
