"""csm-mini's Mimi: transformers' own module at a reduced width, trained from nothing on spectra and waves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .quantizer import Fallen, TrainableQuantizer
from .spectral_loss import SpectralDistance
from .speech import Recording

CODEBOOKS, CODES = 5, 512
SHAPE: dict[str, Any] = {
    "hidden_size": 128, "num_filters": 16, "num_residual_layers": 1, "upsampling_ratios": [4, 5, 6, 8],
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
    "intermediate_size": 512, "codebook_size": CODES, "codebook_dim": 64, "upsample_groups": 128,
    "vector_quantization_hidden_dimension": 64, "num_quantizers": CODEBOOKS, "layer_scale_initial_scale": 0.1,
}  # fmt: skip
_FRAME = 1920
_WAVE, _SHARP_WAVE = 5.0, 25.0  # of the waves' distance: tuned voices begin every frame alike, their phase can be told
_EMPHASIS = 0.95  # of what is high: formants count in a wave as much as what is below them
_THREADS = 2  # each with a part of the batch: far less waiting than two threads that share every product


@dataclass
class _Part:
    """What one thread found on its part of a batch. figures: losses, to be told."""

    gradients: list[Tensor]
    figures: dict[str, float]
    latent: Tensor  # (batch, hidden, frames)
    fallen: Fallen


def build_codec(seed: int) -> Any:
    """A random transformers MimiModel of csm-mini's shape."""
    import transformers as untyped

    transformers: Any = untyped

    torch.manual_seed(seed)
    return transformers.MimiModel(transformers.MimiConfig(**SHAPE))


class _Trainer:
    """What the two below have in common. `state` and `load` make a run go on where it stopped."""

    def __init__(
        self, codec: Any, parameters: Iterable[nn.Parameter], steps: int, rate: float, waves: float = 1.0
    ) -> None:
        """steps: of the whole run. waves: how much their distance counts beside that of spectra."""
        self.codec, self.steps, self._rate, self._parameters = codec.train(), steps, rate, list(parameters)
        self._waves = waves
        self.device: torch.device = codec.device
        self.distance = SpectralDistance().to(self.device)
        self.optimizer = torch.optim.AdamW(self._parameters, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)
        self.step = 0
        self._threads = ThreadPoolExecutor(_THREADS)

    def _learn(self, part_of: Callable[..., _Part], *batch: Tensor) -> tuple[dict[str, float], list[_Part]]:
        """One step: `part_of` finds the gradients of a part of the batch, in each thread."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * _schedule(self.step, self.steps)
        count = _THREADS if self.device.type == "cpu" else 1
        pieces = [each.to(self.device).chunk(count) for each in batch]
        parts = list(self._threads.map(part_of, *pieces))
        for gradients in zip(self._parameters, *(part.gradients for part in parts), strict=True):
            gradients[0].grad = torch.stack(gradients[1:]).mean(0)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        means = {name: sum(part.figures[name] for part in parts) / len(parts) for name in parts[0].figures}
        return means | {"norm": norm.item()}, parts

    def _found(self, loss: Tensor, figures: dict[str, Tensor], latent: Tensor, fallen: Fallen) -> _Part:
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, gradients, strict=True)]
        told = {name: figure.item() for name, figure in figures.items()}
        return _Part(filled, told, latent.detach().float(), fallen)

    def _apart(self, made: Tensor, wave: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """How far what was made is from what was meant, (batch, samples) both."""
        made = made.float()[:, : wave.shape[1]]
        distance, off = self.distance(made, wave), made - wave
        wide, sharp = off.abs().mean(), (off[:, 1:] - _EMPHASIS * off[:, :-1]).abs().mean()
        figures = {"distance": distance, "wave": wide, "sharp": sharp}
        return distance + self._waves * (_WAVE * wide + _SHARP_WAVE * sharp), figures

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def encode(self, wave: Tensor) -> Tensor:
        """(batch, samples) -> (batch, hidden, frames)"""
        codec = self.codec
        x = codec.encoder(wave[:, None])
        x = codec.encoder_transformer(x.transpose(1, 2), use_cache=False)[0].transpose(1, 2)
        latent: Tensor = codec.downsample(x)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """(batch, hidden, frames) -> (batch, samples)"""
        codec = self.codec
        x = codec.upsample(latent)
        x = codec.decoder_transformer(x.transpose(1, 2), use_cache=False)[0].transpose(1, 2)
        made: Tensor = codec.decoder(x)[:, 0]
        return made

    def state(self) -> dict[str, Any]:
        return {"codec": self.codec.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self.codec.load_state_dict(state["codec"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


class CodecTrainer(_Trainer):
    """All of a codec, from nothing."""

    def __init__(self, codec: Any, seed: int, steps: int, rate: float, free_steps: int) -> None:
        """free_steps: the first ones, which go around the quantizer."""
        super().__init__(codec, codec.parameters(), steps, rate)
        self.free_steps = free_steps
        self.quantizer = TrainableQuantizer(codec.quantizer, seed)
        self._recent: list[Tensor] = []

    def learn(self, wave: Tensor) -> dict[str, float]:
        """One step on wave, float32 (batch, samples) in whole frames."""
        if self._recent and self.step == self.free_steps:
            self.quantizer.begin(torch.cat(self._recent))
            self._recent = []
        quantizing = self.step >= self.free_steps
        figures, parts = self._learn(self._part, wave)
        if quantizing:
            self.quantizer.follow([part.fallen for part in parts])
        elif self.step > self.free_steps - 60:
            self._recent += [part.latent for part in parts]
        return figures

    def _part(self, wave: Tensor) -> _Part:
        with self._autocast():
            latent = quantized = self.encode(wave)
            commitment = latent.new_zeros(())
            fallen: Fallen = []
            if self.step >= self.free_steps:
                quantized, commitment, fallen = self.quantizer(latent)
            made = self.decode(quantized)
        loss, figures = self._apart(made, wave)
        return self._found(loss + 0.25 * commitment, figures | {"commitment": commitment}, latent, fallen)


class DecoderTrainer(_Trainer):
    """The half that makes sound, from codes that stay what they are: whoever has learnt them need not learn anew."""

    def __init__(self, codec: Any, steps: int, rate: float, waves: float = 1.0) -> None:
        heard = (codec.upsample, codec.decoder_transformer, codec.decoder)
        projections = [
            part.output_proj
            for part in (
                codec.quantizer.semantic_residual_vector_quantizer,
                codec.quantizer.acoustic_residual_vector_quantizer,
            )
        ]
        super().__init__(
            codec, (each for module in (*heard, *projections) for each in module.parameters()), steps, rate, waves
        )

    def learn(self, wave: Tensor, codes: Tensor) -> dict[str, float]:
        """One step on wave, float32 (batch, samples), and its codes, int64 (batch, codebooks, frames)."""
        return self._learn(self._part, wave, codes)[0]

    def _part(self, wave: Tensor, codes: Tensor) -> _Part:
        with self._autocast():
            latent = self.codec.quantizer.decode(codes)
            made = self.decode(latent)
        loss, figures = self._apart(made, wave)
        return self._found(loss, figures, latent, [])


@torch.no_grad()
def settle(trainer: CodecTrainer, wave: Tensor) -> None:
    """Scale every convolution of a new codec so that what it gives has unit spread (LSUV, Mishkin 2015).

    As they are drawn, each layer shrinks its signal by half: what goes in hardly reaches what comes out, and the
    first thousand steps go by before it does.
    """
    codec = trainer.codec
    spread = {layer.block[-1].conv: 0.3 for layer in codec.modules() if hasattr(layer, "block")}
    spread[codec.decoder.layers[-1].conv] = 0.05

    def scale(conv: Any, _: object, given: Tensor) -> Tensor:
        if conv.bias is not None:
            given = given - conv.bias[:, None]
            conv.bias.zero_()
        factor = spread.get(conv, 1.0) / given.std()
        conv.weight *= factor
        return given * factor

    kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    hooks = [each.register_forward_hook(scale) for each in codec.modules() if isinstance(each, kinds)]
    trainer.decode(trainer.encode(wave.to(trainer.device)))
    for hook in hooks:
        hook.remove()


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 200)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))


def crops(samples: Sequence[Recording], batch: int, frames: int, seed: int, step: int) -> Tensor:
    """A batch of random pieces of recordings, (batch, frames * 1920), at varying loudness."""
    rng = np.random.default_rng((seed, step))
    made = np.zeros((batch, frames * _FRAME), np.float32)
    for row in made:
        clip = samples[int(rng.integers(len(samples)))]
        start = _start(clip, frames, rng) * _FRAME
        piece = clip[start : start + row.size]
        row[: piece.size] = piece * np.float32(rng.uniform(0.7, 1.1) / 32768)
    return torch.from_numpy(made)


def coded_crops(
    clips: Sequence[tuple[Recording, npt.NDArray[np.int64]]], batch: int, frames: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """The same at one loudness, of recordings that are long enough, with their codes: (batch, codebooks, frames)."""
    rng = np.random.default_rng((seed, step))
    waves: list[npt.NDArray[np.float32]] = []
    codes: list[npt.NDArray[np.int64]] = []
    while len(waves) < batch:
        clip, coded = clips[int(rng.integers(len(clips)))]
        if len(coded) >= frames:
            start = _start(clip, frames, rng)
            waves.append(clip[start * _FRAME : (start + frames) * _FRAME].astype(np.float32) / np.float32(32768))
            codes.append(coded[start : start + frames].T)
    return torch.from_numpy(np.stack(waves)), torch.from_numpy(np.stack(codes))


def _start(clip: Recording, frames: int, rng: np.random.Generator) -> int:
    """A frame: where a tuned voice begins anew."""
    return int(rng.integers(max(1, clip.size // _FRAME - frames + 1)))
