"""EMA codebook updates for Mimi's residual vector quantizers, as in VQ-VAE (van den Oord 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_DECAY = 0.99
_DEAD_SHARE = 0.03  # codes with less than this share of uniform usage are restarted
_KMEANS_ITERATIONS = 10

Assignments = list[tuple[Tensor, Tensor]]  # per codebook: vectors (n, dim) and their codes (n,)


class TrainableQuantizer:
    """Trains the quantizer of a transformers MimiModel in place. Codebooks are buffers without gradients."""

    def __init__(self, quantizer: Any, seed: int) -> None:
        self._quantizers = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
        self._rng = torch.Generator().manual_seed(seed)

    def __call__(self, latent: Tensor) -> tuple[Tensor, Tensor, Assignments]:
        """Quantize (batch, hidden, frames) with a straight-through gradient.

        Returns the quantized latent, the commitment loss, and the assignments for `update_codebooks`. Has no side
        effects, so several threads may call it at once.
        """
        quantized, commitment, assignments = torch.zeros_like(latent), latent.new_zeros(()), []
        for quantizer in self._quantizers:
            projected = quantizer.input_proj(latent)
            batch, dim, frames = projected.shape
            vectors = projected.permute(0, 2, 1).reshape(-1, dim).float()
            residual, quantized_sum = vectors, torch.zeros_like(vectors)
            for layer in quantizer.layers:
                entries = _entries(layer.codebook)
                codes = _nearest(residual.detach(), entries)
                assignments.append((residual.detach(), codes))
                selected = entries[codes]
                commitment = commitment + F.mse_loss(residual, selected) / len(quantizer.layers)
                quantized_sum = quantized_sum + selected
                residual = residual - selected
            straight_through = vectors + (quantized_sum - vectors).detach()
            quantized = quantized + quantizer.output_proj(straight_through.view(batch, frames, dim).permute(0, 2, 1))
        return quantized, commitment, assignments

    @torch.no_grad()
    def update_codebooks(self, assignments: Sequence[Assignments]) -> None:
        """EMA update of every entry towards the mean of its vectors, and restart of dead codes."""
        codebooks = [layer.codebook for quantizer in self._quantizers for layer in quantizer.layers]
        for codebook, batches in zip(codebooks, zip(*assignments, strict=True), strict=True):
            vectors, codes = (torch.cat(kind) for kind in zip(*batches, strict=True))
            size = codebook.codebook_size
            counts = torch.bincount(codes, minlength=size).float()
            vector_sums = torch.zeros_like(codebook.embed_sum).index_add_(0, codes, vectors)
            codebook.cluster_usage.lerp_(counts, 1 - _DECAY)
            codebook.embed_sum.lerp_(vector_sums, 1 - _DECAY)
            usage = len(vectors) / size
            dead = torch.nonzero(codebook.cluster_usage < _DEAD_SHARE * usage)[:, 0]
            replacements = torch.randint(len(vectors), (len(dead),), generator=self._rng).to(vectors.device)
            codebook.cluster_usage[dead] = usage
            codebook.embed_sum[dead] = vectors[replacements] * usage
            codebook._embed = None

    @torch.no_grad()
    def init_kmeans(self, latent: Tensor) -> None:
        """Initialize all codebooks by k-means on latents (batch, hidden, frames) of a partly trained encoder."""
        for quantizer in self._quantizers:
            residual = quantizer.input_proj(latent).permute(0, 2, 1).flatten(0, 1)
            for layer in quantizer.layers:
                codebook = layer.codebook
                order = torch.randperm(len(residual), generator=self._rng).to(residual.device)
                entries = residual[order[torch.arange(codebook.codebook_size) % len(order)]]
                for _ in range(_KMEANS_ITERATIONS):
                    codes = _nearest(residual, entries)
                    counts = torch.bincount(codes, minlength=len(entries)).float()
                    vector_sums = torch.zeros_like(entries).index_add_(0, codes, residual)
                    entries = torch.where(counts[:, None] > 0, vector_sums / counts.clamp(min=1)[:, None], entries)
                usage = torch.bincount(_nearest(residual, entries), minlength=len(entries)).float().clamp(min=0.3)
                usage *= 150 / usage.sum()
                codebook.cluster_usage.copy_(usage)
                codebook.embed_sum.copy_(entries * usage[:, None])
                codebook._embed = None
                residual = residual - entries[_nearest(residual, entries)]


def _entries(codebook: Any) -> Tensor:
    entries: Tensor = codebook.embed_sum / codebook.cluster_usage.clamp(min=codebook.epsilon)[:, None]
    return entries


def _nearest(vectors: Tensor, entries: Tensor) -> Tensor:
    """(n, dim), (codes, dim) -> (n,)"""
    distance = entries.square().sum(1) - 2 * vectors @ entries.T
    return distance.argmin(dim=1)
