from __future__ import annotations

import numpy as np
import pytest

from training.base_checkpoint import BaseCheckpoint
from training.batches import collate, group_by_length
from training.errors import LayoutError
from training.example import Example
from training.sequence import Sequence

from .batch_contents import positions_of


def test_targets_are_all_frames_after_the_prompt_with_closing_frames(
    base: BaseCheckpoint, examples: list[Example]
) -> None:
    batch = collate(
        [Sequence((examples[0],)), Sequence((examples[1], examples[2]), prompt_segments=1)],
        base.layout,
        1.0,
        np.random.default_rng(0),
    )
    closing_frame = base.layout.closing_frame
    expected = np.concatenate([examples[0].codes, closing_frame, examples[2].codes, closing_frame])
    np.testing.assert_array_equal(batch.frames[batch.targets].numpy(), expected)
    assert batch.depth_targets.tolist() == list(range(len(expected)))


def test_padding_comes_last(base: BaseCheckpoint, examples: list[Example]) -> None:
    sequences = [Sequence((example,)) for example in examples]
    batch = collate(sequences, base.layout, 1.0, np.random.default_rng(0))
    for row, sequence in enumerate(sequences):
        length = base.layout.sequence_length(sequence)
        contents = positions_of(batch, row)
        assert None not in contents[:length]
        assert set(contents[length:]) <= {None}
    assert batch.positions == sum(map(base.layout.sequence_length, sequences))


@pytest.mark.parametrize("share", [1e-6, 1 / 16, 0.5, 1.0])
def test_depth_targets_are_a_random_share_and_never_empty(
    base: BaseCheckpoint, examples: list[Example], share: float
) -> None:
    sequences = [Sequence((example,)) for example in examples]
    first, second = (collate(sequences, base.layout, share, np.random.default_rng(seed)) for seed in (1, 2))
    targets = len(first.targets)
    for batch in (first, second):
        assert len(batch.depth_targets) == max(1, round(share * targets))
        assert len(set(batch.depth_targets.tolist())) == len(batch.depth_targets)
    assert (first.depth_targets.tolist() == second.depth_targets.tolist()) is (share == 1.0)


@pytest.mark.parametrize("max_positions", [70, 150, 4000])
def test_batches_respect_max_positions_and_keep_every_sequence(
    base: BaseCheckpoint, examples: list[Example], max_positions: int
) -> None:
    sequences = [Sequence((example,)) for example in examples]
    groups = group_by_length(sequences, base.layout, max_positions)
    assert sorted(map(id, sequences)) == sorted(id(each) for group in groups for each in group)
    for group in groups:
        assert len(group) * max(map(base.layout.sequence_length, group)) <= max_positions
    assert (len(groups) == 1) is (max_positions == 4000)


def test_a_sequence_longer_than_max_positions_is_named(base: BaseCheckpoint, examples: list[Example]) -> None:
    with pytest.raises(
        LayoutError, match=r"clip 8: takes \d+ positions, but a batch may have 40 .* raise max_positions"
    ):
        group_by_length([Sequence((example,)) for example in examples], base.layout, 40)
