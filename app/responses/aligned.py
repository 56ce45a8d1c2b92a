"""Characters with their times, in the fields of ElevenLabs' API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace


class Characters:
    """Characters, and when each of them begins and ends, in seconds."""

    def __init__(self) -> None:
        self.characters: list[str] = []
        self.begins: list[float] = []
        self.ends: list[float] = []

    def add(self, text: str, begin: float, end: float) -> None:
        step = (end - begin) / max(len(text), 1)
        self.characters += text
        self.begins += [round(begin + index * step, 3) for index in range(len(text))]
        self.ends += [round(begin + (index + 1) * step, 3) for index in range(len(text))]

    def extend(self, other: Characters) -> None:
        self.characters += other.characters
        self.begins += other.begins
        self.ends += other.ends

    def as_fields(self) -> dict[str, object] | None:
        if not self.characters:
            return None
        return {
            "characters": self.characters,
            "character_start_times_seconds": self.begins,
            "character_end_times_seconds": self.ends,
        }


class SpacedWords:
    """Gives the characters of words their times, with one space between two words.

    end: of the last one so far, in seconds.
    """

    def __init__(self) -> None:
        self.end = 0.0
        self._has_words = False

    def push(self, words: Iterable[tuple[str, float, float]]) -> Characters:
        """The characters of the next words, each given with its begin and its end."""
        characters = Characters()
        for text, first, last in words:
            begin = max(first, self.end)
            if self._has_words:
                characters.add(" ", self.end, begin)
            self.end, self._has_words = max(last, begin), True
            characters.add(text, begin, self.end)
        return characters


@dataclass
class VoiceSegment:
    """The characters of a dialogue's turn, or some of them: from `first` on and before `after`, of those with it.

    begin, end: of their audio, in seconds.
    """

    turn: int
    voice_id: str
    first: int
    after: int
    begin: float
    end: float

    def as_fields(self) -> dict[str, object]:
        return {
            "voice_id": self.voice_id,
            "start_time_seconds": round(self.begin, 3),
            "end_time_seconds": round(self.end, 3),
            "character_start_index": self.first,
            "character_end_index": self.after,
            "dialogue_input_index": self.turn,
        }


@dataclass
class Aligned:
    """Characters as they were written, and as they are said. segments: of a dialogue, whose characters they are."""

    written: Characters = field(default_factory=Characters)
    said: Characters = field(default_factory=Characters)
    segments: list[VoiceSegment] | None = None

    def extend(self, other: Aligned) -> None:
        if self.segments is not None:
            for segment in other.segments or ():
                self._add(segment, len(self.written.characters))
        self.written.extend(other.written)
        self.said.extend(other.said)

    def _add(self, segment: VoiceSegment, at: int) -> None:
        """Add a segment whose characters follow those that are here. A turn has one segment."""
        assert self.segments is not None
        if self.segments and self.segments[-1].turn == segment.turn:
            last = self.segments[-1]
            last.after, last.end = at + segment.after, max(last.end, segment.end)
        else:
            self.segments.append(replace(segment, first=at + segment.first, after=at + segment.after))

    def as_fields(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "alignment": self.written.as_fields(),
            "normalized_alignment": self.said.as_fields(),
        }
        if self.segments is not None:
            fields["voice_segments"] = [segment.as_fields() for segment in self.segments]
        return fields
