"""Training example: one clip's text, speaker and audio codes."""

from __future__ import annotations

from dataclasses import dataclass

from engine.types import Codes


@dataclass(frozen=True)
class Example:
    """One prepared clip of a data set.

    codes: int64 (frames, codebooks), the codec's codes of the whole clip, oldest frame first, without the closing
    frame (the sequence layout adds it). name: the clip's name in its data set, for messages. speaker: the number in
    brackets before the text.
    """

    name: str
    text: str
    speaker: int
    codes: Codes
