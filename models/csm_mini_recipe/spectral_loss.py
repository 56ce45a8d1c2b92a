"""How far two sounds are apart to the ear: log spectra at several time scales, as codecs are trained by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WINDOWS = (256, 512, 1024, 2048)
_MEL_BANDS = (20, 40, 80, 160)
_LINEAR = (512, 2048)  # where single harmonics count too
_FLOOR = 3e-4  # below this magnitude nobody hears a difference


class SpectralDistance(nn.Module):
    """Mean distance of log-mel and log-linear magnitudes, over windows from 11 to 85 ms."""

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

    def forward(self, made: Tensor, meant: Tensor) -> Tensor:
        """(batch, samples) twice -> a scalar."""
        total = made.new_zeros(())
        for window in _WINDOWS:
            a, b = self._magnitude(made, window), self._magnitude(meant, window)
            if window in _LINEAR:
                total = total + _apart(a, b)
            mel: Tensor = getattr(self, f"mel_{window}")
            total = total + _apart(a @ mel, b @ mel)
        return total / (len(_WINDOWS) + len(_LINEAR))

    def _magnitude(self, wave: Tensor, window: int) -> Tensor:
        """(batch, samples) -> (batch, frames, bins), a full-scale sine being about 1"""
        hann: Tensor = getattr(self, f"hann_{window}")
        spectrum = torch.stft(wave, window, window // 4, window=hann, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        return (power + 1e-12).sqrt().transpose(1, 2) / (window / 4)


def _apart(made: Tensor, meant: Tensor) -> Tensor:
    """Of magnitudes: by their logarithms, and by themselves so that what is loud counts more."""
    quiet = (made + _FLOOR).log() - (meant + _FLOOR).log()
    return quiet.abs().mean() + 40 * (made - meant).abs().mean()
