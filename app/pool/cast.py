"""The speaker ids of a dialogue: different voices need different ones in one context."""

from __future__ import annotations

from collections.abc import Sequence


def distinct_speakers(built_in: Sequence[int | None]) -> list[int]:
    """A speaker id for each of several voices.

    built_in: the id of each voice that is one of the model's own speakers, which keeps it; None for a recording, which
        gets the lowest id that is free, in order.
    """
    taken = {speaker for speaker in built_in if speaker is not None}
    free = (speaker for speaker in range(len(built_in) + len(taken)) if speaker not in taken)
    return [next(free) if speaker is None else speaker for speaker in built_in]
