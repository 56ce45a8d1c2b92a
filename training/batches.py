"""Sequences as tensors: what text and which frames stand where, and which of them are to be learnt."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import LayoutError
from .sequence import Ids, Layout, Sequence


@dataclass(frozen=True)
class Batch:
    """Some sequences, padded at their ends to one length. A place is `row * length + position`.

    Nothing stands at the places of padding, and nothing that counts ever looks there: attention is causal.
    """

    rows: int
    length: int
    texts: Tensor  # int64 (tokens,)
    text_places: Tensor  # int64 (tokens,)
    frames: Tensor  # int64 (frames, codebooks), closing frames among them
    frame_places: Tensor  # int64 (frames,)
    targets: Tensor  # int64 (targets,): the frames that are learnt
    chosen: Tensor  # int64 (chosen,): the targets that the depth decoder learns from, at least one

    @property
    def positions(self) -> int:
        """Without padding."""
        return len(self.texts) + len(self.frames)

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return Batch(self.rows, self.length, **moved)


def split(sequences: list[Sequence], layout: Layout, max_positions: int) -> list[list[Sequence]]:
    """Cut sequences into groups of like length that take at most `max_positions` places each, padding included.

    Raises LayoutError for a sequence that is longer than that, or than the model's context.
    """
    lengths = np.array([layout.length(sequence) for sequence in sequences])
    limit = min(max_positions, layout.positions)
    if len(lengths) and lengths.max() > limit:
        longest = sequences[int(lengths.argmax())]
        names = ", ".join(segment.name for segment in longest.segments)
        raise LayoutError(
            f"{names}: takes {lengths.max()} positions, but a batch may have {max_positions} and the model has "
            f"{layout.positions}; cut the clips shorter"
            + (", or raise max_positions" if max_positions < layout.positions else "")
        )
    groups: list[list[Sequence]] = []
    longest_in_group = 0
    for index in np.argsort(-lengths, kind="stable"):
        if not groups or (len(groups[-1]) + 1) * longest_in_group > max_positions:
            groups.append([])
            longest_in_group = int(lengths[index])
        groups[-1].append(sequences[index])
    return groups


def collate(sequences: list[Sequence], layout: Layout, depth_share: float, rng: np.random.Generator) -> Batch:
    """One batch of these sequences. depth_share: the random part of the targets that the depth decoder learns from."""
    length = max(map(layout.length, sequences))
    texts: list[Ids] = []
    text_places: list[Ids] = []
    frames: list[Ids] = []
    frame_places: list[Ids] = []
    learnt: list[npt.NDArray[np.bool_]] = []
    for row, sequence in enumerate(sequences):
        place = row * length
        for number, segment in enumerate(sequence.segments):
            tokens = layout.tokens(segment)
            count = len(segment.codes) + 1
            texts.append(tokens)
            text_places.append(np.arange(place, place + len(tokens)))
            place += len(tokens)
            frames += [segment.codes, layout.closing]
            frame_places.append(np.arange(place, place + count))
            place += count
            learnt.append(np.full(count, number >= sequence.heard))
    targets = np.concatenate(learnt).nonzero()[0]
    count = max(1, round(depth_share * len(targets)))
    chosen = np.sort(rng.permutation(len(targets))[:count])
    return Batch(
        rows=len(sequences),
        length=length,
        texts=_tensor(texts),
        text_places=_tensor(text_places),
        frames=_tensor(frames),
        frame_places=_tensor(frame_places),
        targets=torch.from_numpy(targets),
        chosen=torch.from_numpy(chosen),
    )


def _tensor(parts: list[Ids]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))
