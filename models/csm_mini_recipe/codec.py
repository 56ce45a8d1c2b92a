"""Trains csm-mini's Mimi codec, transformers' module at a reduced width, with spectral and waveform losses."""

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

from .quantizer import Assignments, TrainableQuantizer
from .spectral_loss import SpectralLoss
from .speech import Recording

CODEBOOKS, CODES = 5, 512
SHAPE: dict[str, Any] = {
    "hidden_size": 128, "num_filters": 16, "num_residual_layers": 1, "upsampling_ratios": [4, 5, 6, 8],
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
    "intermediate_size": 512, "codebook_size": CODES, "codebook_dim": 64, "upsample_groups": 128,
    "vector_quantization_hidden_dimension": 64, "num_quantizers": CODEBOOKS, "layer_scale_initial_scale": 0.1,
}  # fmt: skip
_FRAME_SAMPLES = 1920
# Weights of the waveform losses. They work since aligned voices have the same phase in every frame.
_WAVEFORM, _EMPHASIZED_WAVEFORM = 5.0, 25.0
_PRE_EMPHASIS = 0.95  # raises high frequencies, so that formants weigh as much as what is below them
_THREADS = 2  # data parallel on a CPU: far less waiting than two threads in every matrix product


@dataclass
class _Shard:
    """Result of one thread's share of the batch. metrics: losses, for the log."""

    gradients: list[Tensor]
    metrics: dict[str, float]
    latent: Tensor  # (batch, hidden, frames)
    assignments: Assignments


def build_codec(seed: int) -> Any:
    """A random transformers MimiModel of csm-mini's shape."""
    import transformers as untyped

    transformers: Any = untyped

    torch.manual_seed(seed)
    return transformers.MimiModel(transformers.MimiConfig(**SHAPE))


class _Trainer:
    """Shared training loop of the codec and the decoder. `state` and `load` save and resume a run."""

    def __init__(
        self,
        codec: Any,
        parameters: Iterable[nn.Parameter],
        steps: int,
        learning_rate: float,
        waveform_weight: float = 1.0,
    ) -> None:
        """steps: of the whole run. waveform_weight: weight of the waveform losses relative to the spectral loss."""
        self.codec, self.steps = codec.train(), steps
        self._learning_rate, self._parameters = learning_rate, list(parameters)
        self._waveform_weight = waveform_weight
        self.device: torch.device = codec.device
        self.spectral_loss = SpectralLoss().to(self.device)
        self.optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
        self.step = 0
        self._threads = ThreadPoolExecutor(_THREADS)

    def _train_step(
        self, compute_shard: Callable[..., _Shard], *batch: Tensor
    ) -> tuple[dict[str, float], list[_Shard]]:
        """One optimizer step: `compute_shard` computes the gradients of one thread's share of the batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate * _learning_rate_factor(self.step, self.steps)
        count = _THREADS if self.device.type == "cpu" else 1
        inputs = [each.to(self.device).chunk(count) for each in batch]
        shards = list(self._threads.map(compute_shard, *inputs))
        for gradients in zip(self._parameters, *(shard.gradients for shard in shards), strict=True):
            gradients[0].grad = torch.stack(gradients[1:]).mean(0)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        means = {name: sum(shard.metrics[name] for shard in shards) / len(shards) for name in shards[0].metrics}
        return means | {"norm": norm.item()}, shards

    def _collect(self, loss: Tensor, metrics: dict[str, Tensor], latent: Tensor, assignments: Assignments) -> _Shard:
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, gradients, strict=True)]
        values = {name: value.item() for name, value in metrics.items()}
        return _Shard(filled, values, latent.detach().float(), assignments)

    def _reconstruction_loss(self, reconstruction: Tensor, wave: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Spectral and waveform losses between (batch, samples) tensors, and each of them as a metric."""
        reconstruction = reconstruction.float()[:, : wave.shape[1]]
        spectral_loss, error = self.spectral_loss(reconstruction, wave), reconstruction - wave
        waveform, emphasized = error.abs().mean(), (error[:, 1:] - _PRE_EMPHASIS * error[:, :-1]).abs().mean()
        metrics = {"distance": spectral_loss, "wave": waveform, "sharp": emphasized}
        return spectral_loss + self._waveform_weight * (
            _WAVEFORM * waveform + _EMPHASIZED_WAVEFORM * emphasized
        ), metrics

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
        reconstruction: Tensor = codec.decoder(x)[:, 0]
        return reconstruction

    def state(self) -> dict[str, Any]:
        return {"codec": self.codec.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self.codec.load_state_dict(state["codec"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


class CodecTrainer(_Trainer):
    """Trains the whole codec from random weights."""

    def __init__(self, codec: Any, seed: int, steps: int, learning_rate: float, unquantized_steps: int) -> None:
        """unquantized_steps: number of initial steps that bypass the quantizer."""
        super().__init__(codec, codec.parameters(), steps, learning_rate)
        self.unquantized_steps = unquantized_steps
        self.quantizer = TrainableQuantizer(codec.quantizer, seed)
        self._recent_latents: list[Tensor] = []

    def train_step(self, wave: Tensor) -> dict[str, float]:
        """One step on wave, float32 (batch, samples) in whole frames."""
        if self._recent_latents and self.step == self.unquantized_steps:
            self.quantizer.init_kmeans(torch.cat(self._recent_latents))
            self._recent_latents = []
        quantizing = self.step >= self.unquantized_steps
        metrics, shards = self._train_step(self._shard_gradients, wave)
        if quantizing:
            self.quantizer.update_codebooks([shard.assignments for shard in shards])
        elif self.step > self.unquantized_steps - 60:
            self._recent_latents += [shard.latent for shard in shards]
        return metrics

    def _shard_gradients(self, wave: Tensor) -> _Shard:
        with self._autocast():
            latent = quantized = self.encode(wave)
            commitment = latent.new_zeros(())
            assignments: Assignments = []
            if self.step >= self.unquantized_steps:
                quantized, commitment, assignments = self.quantizer(latent)
            reconstruction = self.decode(quantized)
        loss, metrics = self._reconstruction_loss(reconstruction, wave)
        return self._collect(loss + 0.25 * commitment, metrics | {"commitment": commitment}, latent, assignments)


class DecoderTrainer(_Trainer):
    """Trains the decoder only, with fixed codes: models trained on these codes stay valid."""

    def __init__(self, codec: Any, steps: int, learning_rate: float, waveform_weight: float = 1.0) -> None:
        decoder_modules = (codec.upsample, codec.decoder_transformer, codec.decoder)
        projections = [
            quantizer.output_proj
            for quantizer in (
                codec.quantizer.semantic_residual_vector_quantizer,
                codec.quantizer.acoustic_residual_vector_quantizer,
            )
        ]
        super().__init__(
            codec,
            (each for module in (*decoder_modules, *projections) for each in module.parameters()),
            steps,
            learning_rate,
            waveform_weight,
        )

    def train_step(self, wave: Tensor, codes: Tensor) -> dict[str, float]:
        """One step on wave, float32 (batch, samples), and its codes, int64 (batch, codebooks, frames)."""
        return self._train_step(self._shard_gradients, wave, codes)[0]

    def _shard_gradients(self, wave: Tensor, codes: Tensor) -> _Shard:
        with self._autocast():
            latent = self.codec.quantizer.decode(codes)
            reconstruction = self.decode(latent)
        loss, metrics = self._reconstruction_loss(reconstruction, wave)
        return self._collect(loss, metrics, latent, [])


@torch.no_grad()
def init_lsuv(trainer: CodecTrainer, wave: Tensor) -> None:
    """Scale every convolution of a new codec so that its output has unit variance (LSUV, Mishkin 2015).

    With the default initialization each layer halves its signal, so that hardly any of the input reaches the output,
    which costs the first thousand steps.
    """
    codec = trainer.codec
    target_deviation = {layer.block[-1].conv: 0.3 for layer in codec.modules() if hasattr(layer, "block")}
    target_deviation[codec.decoder.layers[-1].conv] = 0.05

    def scale(conv: Any, _: object, output: Tensor) -> Tensor:
        if conv.bias is not None:
            output = output - conv.bias[:, None]
            conv.bias.zero_()
        factor = target_deviation.get(conv, 1.0) / output.std()
        conv.weight *= factor
        return output * factor

    convolutions = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    hooks = [each.register_forward_hook(scale) for each in codec.modules() if isinstance(each, convolutions)]
    trainer.decode(trainer.encode(wave.to(trainer.device)))
    for hook in hooks:
        hook.remove()


def _learning_rate_factor(step: int, steps: int) -> float:
    warmup = min(1.0, (step + 1) / 200)
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))


def random_crops(samples: Sequence[Recording], batch: int, frames: int, seed: int, step: int) -> Tensor:
    """A batch of random crops of recordings, (batch, frames * 1920), at varying gain."""
    rng = np.random.default_rng((seed, step))
    waves = np.zeros((batch, frames * _FRAME_SAMPLES), np.float32)
    for row in waves:
        clip = samples[int(rng.integers(len(samples)))]
        start = _random_start_frame(clip, frames, rng) * _FRAME_SAMPLES
        crop = clip[start : start + row.size]
        row[: crop.size] = crop * np.float32(rng.uniform(0.7, 1.1) / 32768)
    return torch.from_numpy(waves)


def random_coded_crops(
    clips: Sequence[tuple[Recording, npt.NDArray[np.int64]]], batch: int, frames: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """The same at constant gain, from recordings that are long enough, with their codes.

    Returns waves (batch, samples) and codes (batch, codebooks, frames).
    """
    rng = np.random.default_rng((seed, step))
    waves: list[npt.NDArray[np.float32]] = []
    codes: list[npt.NDArray[np.int64]] = []
    while len(waves) < batch:
        clip, clip_codes = clips[int(rng.integers(len(clips)))]
        if len(clip_codes) >= frames:
            start = _random_start_frame(clip, frames, rng)
            waves.append(
                clip[start * _FRAME_SAMPLES : (start + frames) * _FRAME_SAMPLES].astype(np.float32) / np.float32(32768)
            )
            codes.append(clip_codes[start : start + frames].T)
    return torch.from_numpy(np.stack(waves)), torch.from_numpy(np.stack(codes))


def _random_start_frame(clip: Recording, frames: int, rng: np.random.Generator) -> int:
    """Crops start at frames, where aligned voices start a period."""
    return int(rng.integers(max(1, clip.size // _FRAME_SAMPLES - frames + 1)))
