"""Mimi encoder for data sets: recordings to codes, without loading CSM."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

import torch

from ..types import SAMPLE_RATE, Codes, Samples
from .mimi import MimiCodec


class MimiEncoder:
    """The encoder of a checkpoint's codec, with numpy input and output."""

    def __init__(self, codec: MimiCodec, codebooks: int) -> None:
        self._codec = codec
        self.codebooks = codebooks
        self.codebook_size = codec.codebook_size
        self.fingerprint = weights_fingerprint(codec.state(), codebooks)

    @torch.inference_mode()
    def encode(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> Codes:
        """Encode a mono recording, float32 (samples,), to codes int64 (frames, codebooks); the last frame is padded."""
        return cast(Codes, self._codec.encode(samples, sample_rate).cpu().numpy())


def weights_fingerprint(weights: Mapping[str, torch.Tensor], codebooks: int) -> str:
    """A short hash of a codec's weights, equal in every checkpoint with the same codec."""
    digest = hashlib.sha256(f"{codebooks}\0".encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
