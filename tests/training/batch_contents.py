"""Reads a batch back: the content of each position."""

from __future__ import annotations

from training.batches import Batch

Position = int | tuple[int, ...] | None  # a text token, a frame, or padding


def positions_of(batch: Batch, row: int = 0) -> list[Position]:
    contents: list[Position] = [None] * (batch.rows * batch.length)
    for token, index in zip(batch.text_tokens.tolist(), batch.text_indices.tolist(), strict=True):
        assert contents[index] is None
        contents[index] = token
    for frame, index in zip(batch.frames.tolist(), batch.frame_indices.tolist(), strict=True):
        assert contents[index] is None
        contents[index] = tuple(frame)
    return contents[row * batch.length : (row + 1) * batch.length]
