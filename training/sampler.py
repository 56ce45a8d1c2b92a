"""Sequences for the steps, out of a data set: shuffled, of like length within a step, a function of seed and step."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import numpy as np

from .example import Example
from .sequence import Ids, Layout, Sequence

_SPREAD = 0.1  # how far lengths are shaken before they are sorted, so that not the same clips meet every time


class ClipSampler:
    """Calls give the sequences of a step. Every clip is learnt once an epoch; epochs follow without a seam.

    A clip is alone, or behind another of the same speaker, heard and not learnt: that is how a voice is prompted.
    """

    def __init__(
        self, examples: list[Example], layout: Layout, positions: int, seed: int, heard_share: float = 0.5
    ) -> None:
        """positions: places in one step, padding included, at most. heard_share: of the clips, stand behind another.

        Raises LayoutError for a clip that does not fit the model.
        """
        layout.check(examples)
        self._examples, self._positions, self._limit = examples, positions, min(positions, layout.positions)
        self._seed, self._heard_share = seed, heard_share
        self._lengths: Ids = np.array([layout.length_of(example) for example in examples], dtype=np.int64)
        self._fellows = _fellows(examples)
        self._begins = [0]  # the first step of each epoch so far
        self._epoch = lru_cache(maxsize=2)(self._plan)

    def __call__(self, step: int, rng: np.random.Generator) -> list[Sequence]:
        while self._begins[-1] <= step:
            self._begins.append(self._begins[-1] + len(self._epoch(len(self._begins) - 1)))
        epoch = bisect_right(self._begins, step) - 1
        return [self._sequence(*each) for each in self._epoch(epoch)[step - self._begins[epoch]]]

    def _sequence(self, clip: int, heard: int) -> Sequence:
        own = self._examples[clip]
        return Sequence((own,)) if heard < 0 else Sequence((self._examples[heard], own), heard=1)

    def _plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The steps of an epoch: of each the clips to learn and those heard before them, -1 for none."""
        rng = np.random.default_rng((self._seed, epoch, 1))
        order = rng.permutation(len(self._examples))
        heard = np.array([rng.choice(self._fellows[clip]) if len(self._fellows[clip]) else -1 for clip in order])
        lengths = self._lengths[order]
        together = np.where(heard < 0, lengths, lengths + self._lengths[heard])
        alone = (rng.random(len(order)) >= self._heard_share) | (together > self._limit) | (heard == order)
        heard = np.where(alone, -1, heard)
        lengths = np.where(alone, lengths, together)
        steps: list[list[tuple[int, int]]] = []
        longest = 0
        for index in np.argsort(lengths * (1 + _SPREAD * rng.random(len(order))), kind="stable"):
            longest = max(longest, int(lengths[index]))
            if not steps or (len(steps[-1]) + 1) * longest > self._positions:
                steps.append([])
                longest = int(lengths[index])
            steps[-1].append((int(order[index]), int(heard[index])))
        return [steps[index] for index in rng.permutation(len(steps))]


def _fellows(examples: list[Example]) -> list[Ids]:
    """Of each clip, the clips of the same speaker, itself among them; none where it is the only one."""
    speakers = np.array([example.speaker for example in examples])
    by_speaker = {speaker: np.nonzero(speakers == speaker)[0] for speaker in set(speakers.tolist())}
    alone: Ids = np.zeros(0, dtype=np.int64)
    return [each if len(each := by_speaker[speaker]) > 1 else alone for speaker in speakers.tolist()]
