from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.base_checkpoint import BaseCheckpoint
from training.errors import LayoutError
from training.example import Example
from training.sampler import ClipSampler
from training.sequence import Sequence

from .short_runs import random_examples


def steps_of(sampler: ClipSampler, steps: range) -> list[list[tuple[str, ...]]]:
    """The names of each sequence's segments, per step."""
    unused = np.random.default_rng(0)
    return [[tuple(segment.name for segment in each.segments) for each in sampler(step, unused)] for step in steps]


def test_a_step_depends_on_seed_and_number_only(base: BaseCheckpoint) -> None:
    examples = random_examples(20)
    all_steps = steps_of(ClipSampler(examples, base.layout, 200, seed=1), range(60))
    assert [steps_of(ClipSampler(examples, base.layout, 200, seed=1), range(n, n + 1))[0] for n in (59, 31)] == [
        all_steps[59],
        all_steps[31],
    ]
    assert steps_of(ClipSampler(examples, base.layout, 200, seed=2), range(60)) != all_steps


def test_every_clip_is_a_target_once_per_epoch(base: BaseCheckpoint) -> None:
    examples = random_examples(20)
    targets: Counter[str] = Counter()
    epochs = 0
    for names in steps_of(ClipSampler(examples, base.layout, 200, seed=1), range(100)):
        targets.update(each[-1] for each in names)
        if len(set(targets.values())) == 1 and len(targets) == len(examples):
            epochs += 1
        assert max(targets.values()) <= epochs + 1
    assert epochs > 2


def test_steps_respect_max_positions_with_little_padding(base: BaseCheckpoint) -> None:
    sampler = ClipSampler(random_examples(20), base.layout, 300, seed=1)
    used = padded = 0
    for step in range(50):
        lengths = [base.layout.sequence_length(each) for each in sampler(step, np.random.default_rng(0))]
        assert len(lengths) * max(lengths) <= 300
        used += sum(lengths)
        padded += len(lengths) * max(lengths)
    assert used / padded > 0.85


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_prompt_is_another_clip_of_the_same_speaker(base: BaseCheckpoint, share: float) -> None:
    examples = random_examples(30, speakers=3)
    by_name = {example.name: example for example in examples}
    steps = steps_of(ClipSampler(examples, base.layout, 400, seed=3, prompt_share=share), range(80))
    sequences = [each for step in steps for each in step]
    prompted = [each for each in sequences if len(each) == 2]
    for prompt, targets in prompted:
        assert prompt != targets
        assert by_name[prompt].speaker == by_name[targets].speaker
    # a clip that draws itself as its prompt stands alone
    assert share - 0.2 <= len(prompted) / len(sequences) <= share


def test_clips_too_long_for_a_prompt_stand_alone(base: BaseCheckpoint) -> None:
    rng = np.random.default_rng(0)
    long = [Example(f"{n}", "Long.", 0, rng.integers(0, 64, (300, 4))) for n in range(3)]
    sampler = ClipSampler(long, base.layout, 5000, seed=0, prompt_share=1.0)
    assert all(len(each.segments) == 1 for step in range(5) for each in sampler(step, rng))
    with pytest.raises(LayoutError, match="the model has 512"):
        ClipSampler([Example("too long", "Long.", 0, rng.integers(0, 64, (600, 4)))], base.layout, 5000, seed=0)


def test_the_prompt_carries_no_loss(base: BaseCheckpoint) -> None:
    sampler = ClipSampler(random_examples(20), base.layout, 400, seed=1, prompt_share=1.0)
    sequences: list[Sequence] = [each for step in range(10) for each in sampler(step, np.random.default_rng(0))]
    assert all(each.prompt_segments == len(each.segments) - 1 for each in sequences)
