"""Layout of packed prompt tokens, int64 (tokens, CODES + codebooks): one copy to the device moves a whole pass."""

from __future__ import annotations

from dataclasses import dataclass

ROW = 0  # column: the cache row that the token belongs to
POSITION = 1  # column: its position there; the cache's scratch position for padding
IS_AUDIO = 2  # column: 1 for an audio frame, 0 for a text token
CODES = 3  # first of the columns of a frame's codes; a text token has its id here and zeros behind it


@dataclass(frozen=True)
class Segment:
    """Consecutive positions of one row within a pass."""

    row: int
    start: int  # position of its first token
    first: int  # index of its first token
    length: int
