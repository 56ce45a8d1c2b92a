"""Example: one clip that was said, as its words, its speaker and its audio codes."""

from __future__ import annotations

from dataclasses import dataclass

from engine.types import Codes


@dataclass(frozen=True)
class Example:
    """One prepared clip of a data set.

    ``codes`` is int64 of shape ``(frames, codebooks)``: the audio codec's codes of the whole clip, oldest frame
    first, without any closing frame of zeros (the sequence layout adds that). ``name`` is the clip's name in its
    data set, for messages; ``speaker`` is the number that stands in brackets before the text.
    """

    name: str
    text: str
    speaker: int
    codes: Codes
