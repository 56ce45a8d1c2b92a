from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.model.sampling import SamplingInputs, SamplingMode, SamplingState, gumbel_noise, sample

CPU = torch.device("cpu")


def state(rows: int, temperature: float = 1.0, top_k: int = 1000) -> SamplingState:
    made = SamplingState.allocate(rows, CPU)
    made.temperature[:] = made.temperature_first[:] = temperature
    made.top_k[:] = top_k
    return made


def draw(logits: Tensor, settings: SamplingState, mode: SamplingMode) -> Tensor:
    return sample(logits, settings, mode, SamplingInputs.of(settings, mode, 1, logits.shape[-1]), 0)


def test_noise_depends_only_on_seed_frame_codebook_and_token() -> None:
    seeds, frames = torch.tensor([5, 6, 5, -7]), torch.tensor([0, 0, 1, 9])
    noise = gumbel_noise(seeds, frames, 3, 50)
    assert torch.equal(gumbel_noise(seeds[3:], frames[3:], 3, 50)[0], noise[3])
    flat = noise.flatten()
    assert flat.unique().numel() > 0.999 * flat.numel()
    assert noise.isfinite().all()


def test_noise_has_a_gumbel_distribution() -> None:
    noise = gumbel_noise(torch.arange(40), torch.arange(40) % 7, 8, 2048).double()
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - 1.6449) < 0.02
    for axis in (0, 1, 2):  # neighbours along every axis are uncorrelated
        pairs = torch.stack(
            (noise.narrow(axis, 0, noise.shape[axis] - 1), noise.narrow(axis, 1, noise.shape[axis] - 1))
        )
        assert abs(torch.corrcoef(pairs.flatten(1))[0, 1]) < 0.01


def test_samples_follow_the_softmax() -> None:
    rows = 20_000
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    settings = state(rows, temperature=0.7)
    settings.seed[:] = torch.arange(rows)
    tokens = draw(logits.expand(rows, 4), settings, SamplingMode(64, sampled=True, guided=False))
    shares = tokens.bincount(minlength=4) / rows
    assert torch.allclose(shares, (logits / 0.7).softmax(0), atol=0.015)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_is_per_row_and_independent_of_the_sampling_mode(top_k: int) -> None:
    rows = 4000
    logits = torch.tensor([0.3, 0.2, 0.1, 0.0, -0.1]).expand(rows, 5)
    settings = state(rows, top_k=top_k)
    settings.seed[:] = torch.arange(rows)
    settings.top_k[0] = 5
    tokens = draw(logits, settings, SamplingMode(64, sampled=True, guided=False))
    assert set(tokens[1:].tolist()) == set(range(top_k))
    assert torch.equal(tokens, draw(logits, settings, SamplingMode(5, sampled=True, guided=False)))


def test_temperature_zero_is_greedy_in_a_mixed_batch() -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    settings = state(50, temperature=2.0)
    settings.temperature_first[::2] = 0
    tokens = draw(logits, settings, SamplingMode(64, sampled=True, guided=False))
    assert torch.equal(tokens[::2], logits[::2].argmax(-1))
    assert not torch.equal(tokens[1::2], logits[1::2].argmax(-1))
