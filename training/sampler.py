"""Samples each step's sequences: shuffled, of similar length, a function of seed and step alone."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import numpy as np

from .example import Example
from .sequence import Ids, Layout, Sequence

_LENGTH_JITTER = 0.1  # relative noise on lengths before sorting, so that steps group different clips in every epoch


class ClipSampler:
    """Returns the sequences of a step. Every clip is a target once per epoch; epochs follow each other seamlessly.

    A clip stands alone or behind another clip of its speaker, which acts as a voice prompt and carries no loss.
    """

    def __init__(
        self, examples: list[Example], layout: Layout, positions: int, seed: int, prompt_share: float = 0.5
    ) -> None:
        """positions: maximum positions of a step, padding included. prompt_share: share of clips with a voice prompt.

        Raises LayoutError for a clip that does not fit the model.
        """
        layout.check(examples)
        self._examples, self._step_positions, self._max_length = (
            examples,
            positions,
            min(positions, layout.max_positions),
        )
        self._seed, self._prompt_share = seed, prompt_share
        self._lengths: Ids = np.array([layout.segment_length(example) for example in examples], dtype=np.int64)
        self._same_speaker_clips = _same_speaker_clips(examples)
        self._epoch_starts = [0]  # the first step of each epoch so far
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def __call__(self, step: int, rng: np.random.Generator) -> list[Sequence]:
        while self._epoch_starts[-1] <= step:
            self._epoch_starts.append(self._epoch_starts[-1] + len(self._epoch(len(self._epoch_starts) - 1)))
        epoch = bisect_right(self._epoch_starts, step) - 1
        return [self._sequence(*each) for each in self._epoch(epoch)[step - self._epoch_starts[epoch]]]

    def _sequence(self, clip: int, prompt: int) -> Sequence:
        example = self._examples[clip]
        return Sequence((example,)) if prompt < 0 else Sequence((self._examples[prompt], example), prompt_segments=1)

    def _plan_epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The steps of an epoch as (clip, prompt clip) pairs; -1 means no prompt."""
        rng = np.random.default_rng((self._seed, epoch, 1))
        order = rng.permutation(len(self._examples))
        prompts = np.array(
            [
                rng.choice(self._same_speaker_clips[clip]) if len(self._same_speaker_clips[clip]) else -1
                for clip in order
            ]
        )
        lengths = self._lengths[order]
        prompted_lengths = np.where(prompts < 0, lengths, lengths + self._lengths[prompts])
        unprompted = (
            (rng.random(len(order)) >= self._prompt_share) | (prompted_lengths > self._max_length) | (prompts == order)
        )
        prompts = np.where(unprompted, -1, prompts)
        lengths = np.where(unprompted, lengths, prompted_lengths)
        steps: list[list[tuple[int, int]]] = []
        longest = 0
        for index in np.argsort(lengths * (1 + _LENGTH_JITTER * rng.random(len(order))), kind="stable"):
            longest = max(longest, int(lengths[index]))
            if not steps or (len(steps[-1]) + 1) * longest > self._step_positions:
                steps.append([])
                longest = int(lengths[index])
            steps[-1].append((int(order[index]), int(prompts[index])))
        return [steps[index] for index in rng.permutation(len(steps))]


def _same_speaker_clips(examples: list[Example]) -> list[Ids]:
    """For each clip, all clips of its speaker including itself; empty if it is the only one."""
    speakers = np.array([example.speaker for example in examples])
    by_speaker = {speaker: np.nonzero(speakers == speaker)[0] for speaker in set(speakers.tolist())}
    none: Ids = np.zeros(0, dtype=np.int64)
    return [each if len(each := by_speaker[speaker]) > 1 else none for speaker in speakers.tolist()]
