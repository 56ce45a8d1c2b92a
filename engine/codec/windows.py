"""Inputs of a streaming convolution as one product: the window of each position, laid out side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class WindowShape:
    taps: int
    dilation: int
    channels: int
    elu: bool  # the convolution's input passes through an ELU

    @property
    def past(self) -> int:
        """Positions of earlier frames that a frame's windows reach back to."""
        return (self.taps - 1) * self.dilation


class Windows(Protocol):
    def __call__(self, x: Tensor, update: Tensor | None, past: Tensor, fresh: Tensor, shape: WindowShape) -> Tensor:
        """The windows of a frame's positions: (rows, step, channels) -> (rows * step, taps * channels), oldest first.

        update: added to x, which may be overwritten. past, fresh: (rows, shape.past * channels), the newest inputs of
        the frame before, which are read, and of this frame, which are written.
        """
        ...


def unfolded_windows(x: Tensor, update: Tensor | None, past: Tensor, fresh: Tensor, shape: WindowShape) -> Tensor:
    """Implements Windows with PyTorch's own operators."""
    rows, step, channels = x.shape
    if update is not None:
        x += update
    if shape.elu:
        x = F.elu(x)
    x = torch.cat((past.view(rows, shape.past, channels), x), dim=1)
    fresh.view(rows, shape.past, channels).copy_(x[:, step:])
    windows = x.as_strided((rows, step, shape.taps, channels), (x.stride(0), channels, shape.dilation * channels, 1))
    return windows.reshape(rows * step, shape.taps * channels)
