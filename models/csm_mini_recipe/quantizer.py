"""How Mimi's codebooks learn: running means of what falls to each code, as in VQ-VAE (van den Oord 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_DECAY = 0.99
_DEAD = 0.03  # a code that gets less than this share of an even spread begins anew
_KMEANS_ROUNDS = 10

Fallen = list[tuple[Tensor, Tensor]]  # per codebook: vectors (n, dim) and the codes (n,) they fell to


class TrainableQuantizer:
    """Trains the quantizer of a transformers MimiModel in place. Codebooks are its buffers and have no gradients."""

    def __init__(self, quantizer: Any, seed: int) -> None:
        self._parts = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
        self._rng = torch.Generator().manual_seed(seed)

    def __call__(self, latent: Tensor) -> tuple[Tensor, Tensor, Fallen]:
        """(batch, hidden, frames) -> the same, quantized, with gradients straight through; the commitment loss;
        and what fell to which code, for `follow`. Changes nothing, so that several threads may call it at once."""
        quantized, commitment, fallen = torch.zeros_like(latent), latent.new_zeros(()), []
        for part in self._parts:
            projected = part.input_proj(latent)
            batch, dim, frames = projected.shape
            vectors = projected.permute(0, 2, 1).reshape(-1, dim).float()
            residual, chosen = vectors, torch.zeros_like(vectors)
            for layer in part.layers:
                means = _means(layer.codebook)
                codes = _nearest(residual.detach(), means)
                fallen.append((residual.detach(), codes))
                entry = means[codes]
                commitment = commitment + F.mse_loss(residual, entry) / len(part.layers)
                chosen = chosen + entry
                residual = residual - entry
            straight = vectors + (chosen - vectors).detach()
            quantized = quantized + part.output_proj(straight.view(batch, frames, dim).permute(0, 2, 1))
        return quantized, commitment, fallen

    @torch.no_grad()
    def follow(self, fallen: Sequence[Fallen]) -> None:
        """Move each code towards the mean of what fell to it; give one that nothing falls to a new place."""
        books = [layer.codebook for part in self._parts for layer in part.layers]
        for book, pieces in zip(books, zip(*fallen, strict=True), strict=True):
            vectors, codes = (torch.cat(kind) for kind in zip(*pieces, strict=True))
            size = book.codebook_size
            count = torch.bincount(codes, minlength=size).float()
            total = torch.zeros_like(book.embed_sum).index_add_(0, codes, vectors)
            book.cluster_usage.lerp_(count, 1 - _DECAY)
            book.embed_sum.lerp_(total, 1 - _DECAY)
            usage = len(vectors) / size
            dead = torch.nonzero(book.cluster_usage < _DEAD * usage)[:, 0]
            pick = torch.randint(len(vectors), (len(dead),), generator=self._rng).to(vectors.device)
            book.cluster_usage[dead] = usage
            book.embed_sum[dead] = vectors[pick] * usage
            book._embed = None

    @torch.no_grad()
    def begin(self, latent: Tensor) -> None:
        """Place all codebooks by k-means on latents (batch, hidden, frames) of an encoder that has learnt a little."""
        for part in self._parts:
            residual = part.input_proj(latent).permute(0, 2, 1).flatten(0, 1)
            for layer in part.layers:
                book = layer.codebook
                order = torch.randperm(len(residual), generator=self._rng).to(residual.device)
                means = residual[order[torch.arange(book.codebook_size) % len(order)]]
                for _ in range(_KMEANS_ROUNDS):
                    codes = _nearest(residual, means)
                    count = torch.bincount(codes, minlength=len(means)).float()
                    total = torch.zeros_like(means).index_add_(0, codes, residual)
                    means = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], means)
                usage = torch.bincount(_nearest(residual, means), minlength=len(means)).float().clamp(min=0.3)
                usage *= 150 / usage.sum()
                book.cluster_usage.copy_(usage)
                book.embed_sum.copy_(means * usage[:, None])
                book._embed = None
                residual = residual - means[_nearest(residual, means)]


def _means(book: Any) -> Tensor:
    means: Tensor = book.embed_sum / book.cluster_usage.clamp(min=book.epsilon)[:, None]
    return means


def _nearest(vectors: Tensor, means: Tensor) -> Tensor:
    """(n, dim), (codes, dim) -> (n,)"""
    distance = means.square().sum(1) - 2 * vectors @ means.T
    return distance.argmin(dim=1)
