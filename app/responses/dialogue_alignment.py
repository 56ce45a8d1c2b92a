"""The alignment of a dialogue: every character of every turn with its time, and which are whose."""

from __future__ import annotations

from collections.abc import Sequence

from ..audio.timeline import ChunkMark, ScriptTurn
from .aligned import Aligned, VoiceSegment
from .alignment import Alignment


class DialogueAlignment:
    """Aligns the characters of all turns, one after another, without anything between.

    The times of each turn are its own: between those of two turns there is their gap, and turns that overlap have
    times that do. A turn of which nothing is heard has no duration.
    """

    def __init__(self, turns: Sequence[ScriptTurn]) -> None:
        """turns: their marks count characters with a line break between two turns."""
        self._turns = turns
        self._turn = 0  # that is being aligned
        self._text = turns[0].text  # up to its end
        self._alignment = Alignment(self._text)

    def push(self, mark: ChunkMark) -> Aligned:
        assert mark.turn is not None
        aligned = self.nothing()
        while self._turn < mark.turn:
            aligned.extend(self._rest_of_turn())
            self._begin_turn(mark.begin)
        aligned.extend(self._of_turn(self._alignment.push(mark), mark.begin, mark.end))
        return aligned

    def rest(self) -> Aligned:
        aligned = self._rest_of_turn()
        while self._turn < len(self._turns) - 1:
            self._begin_turn(self._alignment.end)
            aligned.extend(self._rest_of_turn())
        return aligned

    def nothing(self) -> Aligned:
        return Aligned(segments=[])

    def _begin_turn(self, seconds: float) -> None:
        self._turn += 1
        first = len(self._text) + 1
        self._text += f"\n{self._turns[self._turn].text}"
        self._alignment = Alignment(self._text, first, seconds)

    def _rest_of_turn(self) -> Aligned:
        return self._of_turn(self._alignment.rest(), self._alignment.end, self._alignment.end)

    def _of_turn(self, aligned: Aligned, begin: float, end: float) -> Aligned:
        """The same, as characters of the turn."""
        count = len(aligned.written.characters)
        voice_id = self._turns[self._turn].voice_id
        aligned.segments = [VoiceSegment(self._turn, voice_id, 0, count, begin, end)] if count else []
        return aligned
