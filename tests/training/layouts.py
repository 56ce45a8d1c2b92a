"""A batch read back: what stands at each position."""

from __future__ import annotations

from training.batches import Batch

Position = int | tuple[int, ...] | None  # a text token, a frame, or padding


def positions_of(batch: Batch, row: int = 0) -> list[Position]:
    laid: list[Position] = [None] * (batch.rows * batch.length)
    for token, place in zip(batch.texts.tolist(), batch.text_places.tolist(), strict=True):
        assert laid[place] is None
        laid[place] = token
    for frame, place in zip(batch.frames.tolist(), batch.frame_places.tolist(), strict=True):
        assert laid[place] is None
        laid[place] = tuple(frame)
    return laid[row * batch.length : (row + 1) * batch.length]
