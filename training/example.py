"""Example: one clip that was said, as its words, its speaker and its audio codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.types import Codes


@dataclass(frozen=True)
class Example:
    """One prepared clip of a data set.

    ``codes`` is int64 of shape ``(frames, codebooks)``: the audio codec's codes of the whole clip, oldest frame
    first, without any closing frame of zeros (the sequence layout adds that). ``name`` is the clip's name in its
    data set, for messages; ``speaker`` is the number that stands in brackets before the text. ``looks`` says for each
    frame which of its text's tokens is being said, as a place between 0 and their number, float32 of shape
    ``(frames,)``; None where nobody knows.
    """

    name: str
    text: str
    speaker: int
    codes: Codes
    looks: npt.NDArray[np.float32] | None = None
