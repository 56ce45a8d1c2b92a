"""Groups sequences by length and collates them into tensors of text tokens, audio frames and loss targets."""

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
    """Sequences right-padded to one length. An index is `row * length + position`.

    Padding positions hold no token and no frame. They need no mask: attention is causal and padding comes last.
    """

    rows: int
    length: int
    text_tokens: Tensor  # int64 (tokens,)
    text_indices: Tensor  # int64 (tokens,)
    frames: Tensor  # int64 (frames, codebooks), closing frames included
    frame_indices: Tensor  # int64 (frames,)
    targets: Tensor  # int64 (targets,): indices into frames that carry loss
    depth_targets: Tensor  # int64 (depth_targets,): indices into targets with depth decoder loss, at least one

    @property
    def positions(self) -> int:
        """Number of positions without padding."""
        return len(self.text_tokens) + len(self.frames)

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return Batch(self.rows, self.length, **moved)


def group_by_length(sequences: list[Sequence], layout: Layout, max_positions: int) -> list[list[Sequence]]:
    """Group sequences of similar length so that each group, padded, has at most `max_positions` positions.

    Raises LayoutError for a sequence longer than that, or than the model's context.
    """
    lengths = np.array([layout.sequence_length(sequence) for sequence in sequences])
    limit = min(max_positions, layout.max_positions)
    if len(lengths) and lengths.max() > limit:
        longest = sequences[int(lengths.argmax())]
        names = ", ".join(segment.name for segment in longest.segments)
        raise LayoutError(
            f"{names}: takes {lengths.max()} positions, but a batch may have {max_positions} and the model has "
            f"{layout.max_positions}; split the clips"
            + (", or raise max_positions" if max_positions < layout.max_positions else "")
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
    """Collate sequences into one batch.

    depth_share: random share of the targets that the depth decoder is trained on.
    """
    length = max(map(layout.sequence_length, sequences))
    text_tokens: list[Ids] = []
    text_indices: list[Ids] = []
    frames: list[Ids] = []
    frame_indices: list[Ids] = []
    loss_masks: list[npt.NDArray[np.bool_]] = []
    for row, sequence in enumerate(sequences):
        index = row * length
        for number, segment in enumerate(sequence.segments):
            tokens = layout.tokens(segment)
            count = len(segment.codes) + 1
            text_tokens.append(tokens)
            text_indices.append(np.arange(index, index + len(tokens)))
            index += len(tokens)
            frames += [segment.codes, layout.closing_frame]
            frame_indices.append(np.arange(index, index + count))
            index += count
            loss_masks.append(np.full(count, number >= sequence.prompt_segments))
    targets = np.concatenate(loss_masks).nonzero()[0]
    count = max(1, round(depth_share * len(targets)))
    depth_targets = np.sort(rng.permutation(len(targets))[:count])
    return Batch(
        rows=len(sequences),
        length=length,
        text_tokens=_tensor(text_tokens),
        text_indices=_tensor(text_indices),
        frames=_tensor(frames),
        frame_indices=_tensor(frame_indices),
        targets=torch.from_numpy(targets),
        depth_targets=torch.from_numpy(depth_targets),
    )


def _tensor(parts: list[Ids]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))
