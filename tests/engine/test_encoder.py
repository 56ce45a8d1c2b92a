"""Recordings to codes without the model: the same codes as the engine makes, and a name for just those weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import FRAME_SAMPLES, EngineConfig, load_encoder

from . import checkpoints


def test_the_codes_are_those_of_transformers(checkpoint: Path, model: Any) -> None:
    samples = np.random.default_rng(2).normal(0, 0.1, 20_001).astype(np.float32)
    encoder = load_encoder(EngineConfig(str(checkpoint), device="cpu"))
    codes = encoder.encode(samples)
    assert codes.dtype == np.int64
    assert codes.max() < encoder.codebook_size
    wave = torch.nn.functional.pad(torch.from_numpy(samples), (0, -samples.size % FRAME_SAMPLES))
    with torch.inference_mode():
        theirs = model.codec_model.encode(wave[None, None], num_quantizers=encoder.codebooks).audio_codes
    np.testing.assert_array_equal(codes, theirs[0].T.numpy())


def test_the_fingerprint_is_of_the_codec_alone(checkpoint: Path, tmp_path: Path) -> None:
    def fingerprint(directory: Path) -> str:
        return load_encoder(EngineConfig(str(directory), device="cpu")).fingerprint

    taught = checkpoints.build_model()
    with torch.no_grad():
        taught.lm_head.weight += 1
    assert fingerprint(checkpoints.write_checkpoint(tmp_path / "taught", taught)) == fingerprint(checkpoint)
    with torch.no_grad():
        next(taught.codec_model.parameters()).add_(1e-3)
    assert fingerprint(checkpoints.write_checkpoint(tmp_path / "retuned", taught)) != fingerprint(checkpoint)
