"""Recordings to codes, for data sets: Mimi without the model that speaks."""

from __future__ import annotations

import hashlib
from typing import cast

import torch

from ..types import SAMPLE_RATE, Codes, Samples
from .mimi import MimiCodec


class MimiEncoder:
    """The encoding half of a checkpoint's codec, behind numpy."""

    def __init__(self, codec: MimiCodec, codebooks: int) -> None:
        self._codec = codec
        self.codebooks = codebooks
        self.codebook_size = codec.codebook_size
        self.fingerprint = _fingerprint(codec, codebooks)

    @torch.inference_mode()
    def encode(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> Codes:
        """A mono recording, float32 (samples,), to codes int64 (frames, codebooks); the last frame is padded."""
        return cast(Codes, self._codec.encode(samples, sample_rate).cpu().numpy())


def _fingerprint(codec: MimiCodec, codebooks: int) -> str:
    """A short name for these weights: equal in every checkpoint that carries the same codec."""
    digest = hashlib.sha256(f"{codebooks}\0".encode())
    for name, tensor in sorted(codec.state().items()):
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
