"""MimiEncoder: codes equal to transformers', and a fingerprint that covers only the codec's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import FRAME_SAMPLES, EngineConfig, load_encoder

from . import checkpoints


def test_codes_equal_transformers(checkpoint: Path, model: Any) -> None:
    samples = np.random.default_rng(2).normal(0, 0.1, 20_001).astype(np.float32)
    encoder = load_encoder(EngineConfig(str(checkpoint), device="cpu"))
    codes = encoder.encode(samples)
    assert codes.dtype == np.int64
    assert codes.max() < encoder.codebook_size
    wave = torch.nn.functional.pad(torch.from_numpy(samples), (0, -samples.size % FRAME_SAMPLES))
    with torch.inference_mode():
        expected = model.codec_model.encode(wave[None, None], num_quantizers=encoder.codebooks).audio_codes
    np.testing.assert_array_equal(codes, expected[0].T.numpy())


def test_the_fingerprint_depends_only_on_the_codec(checkpoint: Path, tmp_path: Path) -> None:
    def fingerprint(directory: Path) -> str:
        return load_encoder(EngineConfig(str(directory), device="cpu")).fingerprint

    changed = checkpoints.build_model()
    with torch.no_grad():
        changed.lm_head.weight += 1
    assert fingerprint(checkpoints.write_checkpoint(tmp_path / "head", changed)) == fingerprint(checkpoint)
    with torch.no_grad():
        next(changed.codec_model.parameters()).add_(1e-3)
    assert fingerprint(checkpoints.write_checkpoint(tmp_path / "codec", changed)) != fingerprint(checkpoint)
