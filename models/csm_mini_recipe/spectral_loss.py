"""Multi-scale spectral loss for codec training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WINDOWS = (256, 512, 1024, 2048)
_MEL_BANDS = (20, 40, 80, 160)
_LINEAR_WINDOWS = (512, 2048)  # windows with a linear-frequency loss, for single harmonics
_FLOOR = 3e-4  # magnitude below which differences are inaudible


class SpectralLoss(nn.Module):
    """Mean distance of log-mel and linear-frequency magnitudes, over windows of 11 to 85 ms."""

    def __init__(self, sample_rate: int = 24_000) -> None:
        super().__init__()
        import torchaudio.functional

        for window, bands in zip(_WINDOWS, _MEL_BANDS, strict=True):
            mel = torchaudio.functional.melscale_fbanks(
                window // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, norm=None
            )
            mel /= mel.sum(0).clamp(min=1)
            self.register_buffer(f"mel_{window}", mel, persistent=False)
            self.register_buffer(f"hann_{window}", torch.hann_window(window), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """output, target: (batch, samples). Returns a scalar."""
        total = output.new_zeros(())
        for window in _WINDOWS:
            a, b = self._magnitude(output, window), self._magnitude(target, window)
            if window in _LINEAR_WINDOWS:
                total = total + _magnitude_loss(a, b)
            mel: Tensor = getattr(self, f"mel_{window}")
            total = total + _magnitude_loss(a @ mel, b @ mel)
        return total / (len(_WINDOWS) + len(_LINEAR_WINDOWS))

    def _magnitude(self, wave: Tensor, window: int) -> Tensor:
        """(batch, samples) -> (batch, frames, bins); a full-scale sine is about 1."""
        hann: Tensor = getattr(self, f"hann_{window}")
        spectrum = torch.stft(wave, window, window // 4, window=hann, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        return (power + 1e-12).sqrt().transpose(1, 2) / (window / 4)


def _magnitude_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 distance of log magnitudes, plus that of magnitudes, which weighs loud parts more."""
    log_error = (output + _FLOOR).log() - (target + _FLOOR).log()
    return log_error.abs().mean() + 40 * (output - target).abs().mean()
