"""Recordings to codes without the model: the same codes as the engine makes, and a name for just those weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engine import EngineConfig, load_encoder
from engine.codec.mimi import load_transformers_mimi
from engine.model.config import read_config
from engine.model.weights import open_tensors

from . import checkpoints


def test_the_codes_are_those_of_the_engines_codec(checkpoint: Path) -> None:
    samples = np.random.default_rng(2).normal(0, 0.1, 20_001).astype(np.float32)
    encoder = load_encoder(EngineConfig(str(checkpoint), device="cpu"))
    config = read_config(checkpoint / "config.json")
    codec = load_transformers_mimi(config.codec, open_tensors(checkpoint), config.codebooks, 3, torch.device("cpu"))
    for rate in (24_000, 16_000):
        codes = encoder.encode(samples, rate)
        assert codes.dtype == np.int64
        assert codes.shape[1] == encoder.codebooks
        assert codes.max() < encoder.codebook_size
        with torch.inference_mode():
            np.testing.assert_array_equal(codes, codec.encode(samples, rate).numpy())


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
