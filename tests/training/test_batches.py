from __future__ import annotations

import numpy as np
import pytest

from training.base_model import BaseModel
from training.batches import collate, split
from training.errors import LayoutError
from training.example import Example
from training.sequence import Sequence

from .layouts import positions_of


def test_what_is_learnt_is_every_frame_behind_what_is_heard_and_the_stop(
    base: BaseModel, examples: list[Example]
) -> None:
    batch = collate(
        [Sequence((examples[0],)), Sequence((examples[1], examples[2]), heard=1)],
        base.layout,
        1.0,
        np.random.default_rng(0),
    )
    closing = base.layout.closing
    right = np.concatenate([examples[0].codes, closing, examples[2].codes, closing])
    np.testing.assert_array_equal(batch.frames[batch.targets].numpy(), right)
    assert batch.chosen.tolist() == list(range(len(right)))


def test_padding_comes_last(base: BaseModel, examples: list[Example]) -> None:
    sequences = [Sequence((example,)) for example in examples]
    batch = collate(sequences, base.layout, 1.0, np.random.default_rng(0))
    for row, sequence in enumerate(sequences):
        length = base.layout.length(sequence)
        laid = positions_of(batch, row)
        assert None not in laid[:length]
        assert set(laid[length:]) <= {None}
    assert batch.positions == sum(map(base.layout.length, sequences))


@pytest.mark.parametrize("share", [1e-6, 1 / 16, 0.5, 1.0])
def test_the_depth_decoder_learns_from_a_random_part_and_never_from_nothing(
    base: BaseModel, examples: list[Example], share: float
) -> None:
    sequences = [Sequence((example,)) for example in examples]
    first, second = (collate(sequences, base.layout, share, np.random.default_rng(seed)) for seed in (1, 2))
    targets = len(first.targets)
    for batch in (first, second):
        assert len(batch.chosen) == max(1, round(share * targets))
        assert len(set(batch.chosen.tolist())) == len(batch.chosen)
    assert (first.chosen.tolist() == second.chosen.tolist()) is (share == 1.0)


@pytest.mark.parametrize("most", [70, 150, 4000])
def test_batches_keep_to_their_size_and_lose_nobody(base: BaseModel, examples: list[Example], most: int) -> None:
    sequences = [Sequence((example,)) for example in examples]
    groups = split(sequences, base.layout, most)
    assert sorted(map(id, sequences)) == sorted(id(each) for group in groups for each in group)
    for group in groups:
        assert len(group) * max(map(base.layout.length, group)) <= most
    assert (len(groups) == 1) is (most == 4000)


def test_a_sequence_that_fits_no_batch_is_named(base: BaseModel, examples: list[Example]) -> None:
    with pytest.raises(
        LayoutError, match=r"clip 8: takes \d+ positions, but a batch may have 40 .* raise max_positions"
    ):
        split([Sequence((example,)) for example in examples], base.layout, 40)
