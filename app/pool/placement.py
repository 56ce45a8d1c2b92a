"""Who speaks next: a decision without side effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A worker that is ready.

    load: permits that are taken on it, or waited for. capacity: permits there are.
    turn: when it was last chosen; the order counts, not the number.
    """

    index: int
    load: int
    capacity: int
    turn: int


def choose(candidates: Sequence[Candidate], permits: int, *, only_free: bool = False) -> int | None:
    """The one that is the least loaded for its size; of equals the one whose turn is the longest ago.

    Equals are not decided for the worker that was asked: requests come to it by the kernel's whim, often several to
    one, and speech that is over before the next request comes would then be spread no better than that.
    only_free: nobody on whom the permits would have to be waited for. None if there is nobody.
    """
    able = [each for each in candidates if each.load + permits <= each.capacity or not only_free]
    chosen = min(able, key=lambda each: ((each.load + permits) / max(each.capacity, 1), each.turn), default=None)
    return None if chosen is None else chosen.index
