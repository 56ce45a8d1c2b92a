"""Losses equal those of transformers' forward, with and without padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.random_checkpoint import TINY, build_model
from training.base_checkpoint import BaseCheckpoint
from training.batches import Batch, collate
from training.example import Example
from training.losses import CsmLosses, Losses
from training.sequence import Sequence


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(TINY, seed=5)


def losses_of(model: Any, base: BaseCheckpoint, *sequences: Sequence, share: float = 1.0) -> tuple[Losses, Batch]:
    batch = collate(list(sequences), base.layout, share, np.random.default_rng(7))
    return CsmLosses(model)(batch), batch


def test_losses_equal_transformers(model: Any, base: BaseCheckpoint) -> None:
    """Two segments with their closing frames, and the depth decoder on half of the frames.

    Both segments carry loss, since transformers' labels cannot mask the audio of one.
    """
    generator = torch.Generator().manual_seed(3)
    waves = [torch.randn(1, 1, frames * 1920, generator=generator) * 0.1 for frames in (3, 5)]
    with torch.no_grad():
        codes = [model.codec_model.encode(wave).audio_codes[0].T.numpy() for wave in waves]
    segments = tuple(Example(str(number), f"These words {number}.", number, each) for number, each in enumerate(codes))
    losses, batch = losses_of(model, base, Sequence(segments), share=0.5)
    assert (len(batch.targets), len(batch.depth_targets)) == (10, 5)

    audio, closing = base.model.config.audio_token_id, base.model.config.audio_eos_token_id
    ids: list[int] = []
    labels: list[int] = []
    for segment in segments:
        text = base.layout.tokens(segment).tolist()
        frames = [audio] * len(segment.codes) + [closing]
        ids += [*text, *frames]
        labels += [-100] * len(text) + frames
    for target in set(range(len(batch.targets))) - set(batch.depth_targets.tolist()):
        labels[int(batch.frame_indices[batch.targets[target]])] = -101  # codebook 0 alone
    expected = model(
        input_ids=torch.tensor([ids]),
        input_values=torch.cat(waves, dim=-1),
        input_values_cutoffs=torch.tensor([np.cumsum([wave.shape[-1] for wave in waves]).tolist()]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        labels=torch.tensor([labels]),
    )
    torch.testing.assert_close(losses.first.mean(), expected.backbone_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.depth.mean(), expected.depth_decoder_loss, rtol=1e-5, atol=1e-6)


def test_a_batched_sequence_has_the_same_losses_as_alone(
    model: Any, base: BaseCheckpoint, examples: list[Example]
) -> None:
    sequences = [
        Sequence((examples[0],)),
        Sequence((examples[7], examples[1]), prompt_segments=1),
        Sequence((examples[4],)),
    ]
    together, _ = losses_of(model, base, *sequences)
    alone = [losses_of(model, base, each)[0] for each in sequences]
    torch.testing.assert_close(together.first, torch.cat([each.first for each in alone]))
    torch.testing.assert_close(together.depth, torch.cat([each.depth for each in alone], dim=1))


def test_the_prompt_affects_losses_and_later_segments_do_not(
    model: Any, base: BaseCheckpoint, examples: list[Example]
) -> None:
    sequence = Sequence((examples[0], examples[2], examples[4]), prompt_segments=1)
    other_suffix = Sequence((examples[0], examples[2], examples[6]), prompt_segments=1)
    other_prompt = Sequence((examples[8], examples[2], examples[4]), prompt_segments=1)
    first = len(examples[2].codes) + 1
    losses, suffix, prompt = (
        losses_of(model, base, each)[0].first[:first] for each in (sequence, other_suffix, other_prompt)
    )
    torch.testing.assert_close(losses, suffix)
    assert not torch.isclose(losses, prompt).any()


def test_eager_attention_is_causal(model: Any, base: BaseCheckpoint, examples: list[Example]) -> None:
    sequences = [Sequence((examples[0],)), Sequence((examples[3],))]
    fused, _ = losses_of(model, base, *sequences)
    eager_model = build_model(TINY, seed=5)
    eager_model.set_attn_implementation("eager")
    assert eager_model.depth_decoder.model.config._attn_implementation == "eager"
    eager, _ = losses_of(eager_model, base, *sequences)
    torch.testing.assert_close(eager.first, fused.first)
    torch.testing.assert_close(eager.depth, fused.depth)


def test_every_weight_except_the_codecs_gets_a_gradient(base: BaseCheckpoint, examples: list[Example]) -> None:
    model = build_model(TINY, seed=5)
    losses, _ = losses_of(model, base, Sequence((examples[0],)))
    (losses.first.sum() + losses.depth.sum()).backward()

    def is_nonzero(gradient: Tensor | None) -> bool:
        return gradient is not None and bool(gradient.abs().sum() > 0)

    without = {name for name, parameter in model.named_parameters() if not is_nonzero(parameter.grad)}
    assert without == {name for name, _ in model.named_parameters() if name.startswith("codec_model.")}
