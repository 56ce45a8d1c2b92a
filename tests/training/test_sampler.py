from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.base_model import BaseModel
from training.errors import LayoutError
from training.example import Example
from training.sampler import ClipSampler
from training.sequence import Sequence

from .chance import clips_of_chance


def steps_of(clips: ClipSampler, steps: range) -> list[list[tuple[str, ...]]]:
    """Of each step, its sequences as the names of their segments."""
    unused = np.random.default_rng(0)
    return [[tuple(segment.name for segment in each.segments) for each in clips(step, unused)] for step in steps]


def test_a_step_is_a_function_of_the_seed_and_its_number(base: BaseModel) -> None:
    examples = clips_of_chance(20)
    walked = steps_of(ClipSampler(examples, base.layout, 200, seed=1), range(60))
    assert [steps_of(ClipSampler(examples, base.layout, 200, seed=1), range(n, n + 1))[0] for n in (59, 31)] == [
        walked[59],
        walked[31],
    ]
    assert steps_of(ClipSampler(examples, base.layout, 200, seed=2), range(60)) != walked


def test_every_clip_is_learnt_once_an_epoch(base: BaseModel) -> None:
    examples = clips_of_chance(20)
    learnt: Counter[str] = Counter()
    epochs = 0
    for names in steps_of(ClipSampler(examples, base.layout, 200, seed=1), range(100)):
        learnt.update(each[-1] for each in names)
        if len(set(learnt.values())) == 1 and len(learnt) == len(examples):
            epochs += 1
        assert max(learnt.values()) <= epochs + 1
    assert epochs > 2


def test_steps_keep_to_their_size_and_are_of_like_length(base: BaseModel) -> None:
    clips = ClipSampler(clips_of_chance(20), base.layout, 300, seed=1)
    taken = padded = 0
    for step in range(50):
        lengths = [base.layout.length(each) for each in clips(step, np.random.default_rng(0))]
        assert len(lengths) * max(lengths) <= 300
        taken += sum(lengths)
        padded += len(lengths) * max(lengths)
    assert taken / padded > 0.85


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_is_heard_is_another_clip_of_the_same_speaker(base: BaseModel, share: float) -> None:
    examples = clips_of_chance(30, speakers=3)
    by_name = {example.name: example for example in examples}
    steps = steps_of(ClipSampler(examples, base.layout, 400, seed=3, heard_share=share), range(80))
    sequences = [each for step in steps for each in step]
    prompted = [each for each in sequences if len(each) == 2]
    for heard, learnt in prompted:
        assert heard != learnt
        assert by_name[heard].speaker == by_name[learnt].speaker
    # now and then the clip drawn is the same one, and it stands alone
    assert share - 0.2 <= len(prompted) / len(sequences) <= share


def test_what_would_not_fit_behind_another_stands_alone(base: BaseModel) -> None:
    rng = np.random.default_rng(0)
    long = [Example(f"{n}", "Long.", 0, rng.integers(0, 64, (300, 4))) for n in range(3)]
    clips = ClipSampler(long, base.layout, 5000, seed=0, heard_share=1.0)
    assert all(len(each.segments) == 1 for step in range(5) for each in clips(step, rng))
    with pytest.raises(LayoutError, match="the model has 512"):
        ClipSampler([Example("too long", "Long.", 0, rng.integers(0, 64, (600, 4)))], base.layout, 5000, seed=0)


def test_the_heard_one_carries_no_loss(base: BaseModel) -> None:
    clips = ClipSampler(clips_of_chance(20), base.layout, 400, seed=1, heard_share=1.0)
    sequences: list[Sequence] = [each for step in range(10) for each in clips(step, np.random.default_rng(0))]
    assert all(each.heard == len(each.segments) - 1 for each in sequences)
