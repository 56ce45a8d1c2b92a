"""csm-mini's Mimi: transformers' own module at a reduced width, trained from nothing on spectra and waves."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .quantizer import Fallen, TrainableQuantizer
from .spectra import SpectralDistance

CODEBOOKS, CODES = 5, 512
SHAPE: dict[str, Any] = {
    "hidden_size": 128, "num_filters": 16, "num_residual_layers": 1, "upsampling_ratios": [4, 5, 6, 8],
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
    "intermediate_size": 512, "codebook_size": CODES, "codebook_dim": 64, "upsample_groups": 128,
    "vector_quantization_hidden_dimension": 64, "num_quantizers": CODEBOOKS, "layer_scale_initial_scale": 0.1,
}  # fmt: skip
_FRAME = 1920
_WAVE = 10.0  # of the waves' distance: tuned voices begin every frame alike, so their phase can be told
_THREADS = 2  # each with a part of the batch: far less waiting than two threads that share every product


@dataclass
class _Part:
    """What one thread found on its part of a batch."""

    gradients: list[Tensor]
    latent: Tensor  # (batch, hidden, frames)
    fallen: Fallen
    losses: tuple[float, float, float]  # distance, of waves, commitment


def build_codec(seed: int) -> Any:
    """A random transformers MimiModel of csm-mini's shape."""
    import transformers as untyped

    transformers: Any = untyped

    torch.manual_seed(seed)
    return transformers.MimiModel(transformers.MimiConfig(**SHAPE))


class CodecTrainer:
    """One step at a time. `state` and `load` make a run go on where it stopped."""

    def __init__(self, codec: Any, seed: int, steps: int, rate: float, free_steps: int) -> None:
        """steps: of the whole run. free_steps: the first ones, which go around the quantizer."""
        self.codec, self.steps, self.free_steps, self._rate = codec.train(), steps, free_steps, rate
        self.device: torch.device = codec.device
        self.quantizer = TrainableQuantizer(codec.quantizer, seed)
        self.distance = SpectralDistance().to(self.device)
        self.optimizer = torch.optim.AdamW(codec.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)
        self.step = 0
        self._parameters = list(codec.parameters())
        self._threads = ThreadPoolExecutor(_THREADS)
        self._recent: list[Tensor] = []

    def learn(self, wave: Tensor) -> dict[str, float]:
        """One step on wave, float32 (batch, samples) in whole frames: a part of the batch in each thread."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * _schedule(self.step, self.steps)
        if self._recent and self.step == self.free_steps:
            self.quantizer.begin(torch.cat(self._recent))
            self._recent = []
        pieces = wave.to(self.device).chunk(_THREADS if self.device.type == "cpu" else 1)
        parts = list(self._threads.map(self._gradients, pieces))
        for gradients in zip(self._parameters, *(part.gradients for part in parts), strict=True):
            gradients[0].grad = torch.stack(gradients[1:]).mean(0)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self.optimizer.step()
        if self.step >= self.free_steps:
            self.quantizer.follow([part.fallen for part in parts])
        elif self.step >= self.free_steps - 60:
            self._recent += [part.latent for part in parts]
        self.step += 1
        means = [sum(each) / len(parts) for each in zip(*(part.losses for part in parts), strict=True)]
        return dict(zip(("distance", "wave", "commitment"), means, strict=True)) | {"norm": norm.item()}

    def _gradients(self, wave: Tensor) -> _Part:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            latent = quantized = self.encode(wave)
            commitment = latent.new_zeros(())
            fallen: Fallen = []
            if self.step >= self.free_steps:
                quantized, commitment, fallen = self.quantizer(latent)
            made = self.decode(quantized)
        made = made.float()[:, : wave.shape[1]]
        distance, wide = self.distance(made, wave), (made - wave).abs().mean()
        loss = distance + _WAVE * wide + 0.25 * commitment
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, gradients, strict=True)]
        return _Part(filled, latent.detach().float(), fallen, (distance.item(), wide.item(), commitment.item()))

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


def crops(samples: list[np.ndarray[Any, Any]], batch: int, frames: int, seed: int, step: int) -> Tensor:
    """A batch of random pieces of recordings, (batch, frames * 1920), at varying loudness."""
    rng = np.random.default_rng((seed, step))
    made = np.zeros((batch, frames * _FRAME), np.float32)
    for row in made:
        clip = samples[int(rng.integers(len(samples)))]
        start = int(rng.integers(max(1, clip.size // _FRAME - frames + 2))) * _FRAME  # where a tuned voice begins anew
        piece = clip[start : start + row.size]
        row[: piece.size] = piece * np.float32(rng.uniform(0.7, 1.1) / 32768)
    return torch.from_numpy(made)
