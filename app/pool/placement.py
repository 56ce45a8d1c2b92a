"""Placement: chooses the worker for a request. Pure, without side effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A ready worker.

    load: permits held or waited for. capacity: its permits in all.
    turn: orders workers by when they were last chosen; smaller is longer ago.
    """

    index: int
    load: int
    capacity: int
    turn: int


def choose(candidates: Sequence[Candidate], permits: int, *, only_free: bool = False) -> int | None:
    """The index of the worker with the lowest load relative to its capacity; among equals, the least recently chosen.

    Equals are not decided in favour of the worker that accepted the connection: the kernel distributes connections
    unevenly, often several to one worker, and short requests would then be spread no more evenly than that.
    only_free: only workers with that many free permits. None if there is no candidate.
    """
    able = [each for each in candidates if each.load + permits <= each.capacity or not only_free]
    chosen = min(able, key=lambda each: ((each.load + permits) / max(each.capacity, 1), each.turn), default=None)
    return None if chosen is None else chosen.index
