"""One record per row with all that a row needs to begin decoding, so that one copy and one scatter set up many rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# The fields of SamplingState, and `position` and `starting` of StepState.
ROW_RECORD = np.dtype(
    [
        ("row", "<i8"),
        ("seed", "<i8"),
        ("frame", "<i8"),
        ("top_k", "<i8"),
        ("unconditional", "<i8"),
        ("sampler", "<i8"),
        ("position", "<i8"),
        ("temperature_first", "<f4"),
        ("temperature", "<f4"),
        ("guidance", "<f4"),
        ("starting", "<i4"),  # a flag, read by its lowest byte
    ]
)
_WORDS = ROW_RECORD.itemsize // 8
_FLAGS = {"starting"}
_TORCH_TYPES = {"<i8": torch.int64, "<f4": torch.float32}


class RowTable:
    """The records of all rows on the device, int64 (rows, words)."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.words = torch.zeros(rows, _WORDS, dtype=torch.int64, device=device)

    def field(self, name: str) -> Tensor:
        """A view of one field of every row, (rows,)."""
        fields: Any = ROW_RECORD.fields
        kind, offset = fields[name]
        dtype = torch.bool if name in _FLAGS else _TORCH_TYPES[kind.str]
        return self.words.view(dtype)[:, offset // dtype.itemsize]

    def write(self, records: Tensor) -> None:
        """Overwrite the rows that the records name. records: int64 (count, words) on the device, see `as_words`."""
        self.words.index_copy_(0, records[:, 0], records)


def as_words(records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Records (count,) of dtype ROW_RECORD as int64 (count, words)."""
    return records.view(np.int64).reshape(len(records), _WORDS)
