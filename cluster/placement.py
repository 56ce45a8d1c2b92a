"""Placement over replicas: the order in which a router tries them. Pure, and without Ray."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

CHOICES = 3  # replicas looked at for one request: bench.cluster_router shows why neither 2 nor 8
AFFINITY = 0.25  # how much busier, as a share of its slots, a replica may be that has the voice


@dataclass(frozen=True)
class Load:
    """A replica as a router knows it.

    busy: slots in use, requests that wait, and what this router has sent since it was told.
    capacity: slots in all; 0 if it has not said yet.
    has_voice: it spoke the voice of this request lately.
    silent: it has not reported for seconds, so it may hang.
    """

    busy: int
    capacity: int
    has_voice: bool = False
    silent: bool = False

    @property
    def cost(self) -> tuple[bool, bool, float]:
        """Orders replicas: those that report first, then with a free slot, then by the share of slots that are busy."""
        capacity = max(self.capacity, 1)
        return self.silent, self.busy >= capacity, self.busy / capacity - AFFINITY * self.has_voice


def order(
    count: int,
    load_of: Callable[[int], Load],
    source: random.Random,
    *,
    familiar: int | None = None,
    choices: int = CHOICES,
) -> list[int]:
    """Indices of at most `choices` of `count` replicas and the familiar one, best first.

    load_of: the load of an index. familiar: the replica that spoke this voice last.
    They are drawn at random: routers that all chose the best of all replicas would choose the same one until they are
    told that it is busy. A full replica comes last, whatever voices it has, and a silent one behind it.
    """
    drawn = source.sample(range(count), min(choices, count))
    if familiar is not None and familiar not in drawn:
        drawn.append(familiar)
    costs = {index: load_of(index).cost for index in drawn}
    return sorted(drawn, key=costs.__getitem__)
