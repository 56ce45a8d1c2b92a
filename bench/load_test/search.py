"""The largest load that holds, found in few trials. Pure: what a trial is, the caller knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

PRECISION = 0.1  # the answer is within a tenth of the smallest load that does not hold
_HALVINGS = 6  # how far below the first load it looks


@dataclass(frozen=True)
class Found:
    """load: the largest that held; None if none did. fails: the smallest that did not.

    ended: exact (within the precision); most (the largest allowed holds); trials or time (used up before it was
    exact); nothing (none holds).
    """

    load: float | None
    fails: float | None
    ended: Literal["exact", "most", "trials", "time", "nothing"]


def largest_load(
    holds: Callable[[float], bool],
    first: float,
    most: float,
    *,
    whole: bool,
    trials: int,
    in_time: Callable[[], bool] = lambda: True,
) -> Found:
    """Double from `first` until it fails or `most` holds, then bisect. Fails at once: halve.

    holds: runs a trial. whole: loads are whole numbers from 1. trials: never more than so many. in_time: asked before
    each but the first.
    """
    good: float | None = None
    bad: float | None = None
    load = min(first, most)
    for trial in range(trials):
        if trial and not in_time():
            return Found(good, bad, "time")
        if holds(load):
            good = load
        else:
            bad = load
        following = _next(good, bad, first, most, whole)
        if following is None:
            return Found(good, bad, "nothing" if good is None else "most" if bad is None else "exact")
        load = following
    return Found(good, bad, "trials")


def _next(good: float | None, bad: float | None, first: float, most: float, whole: bool) -> float | None:
    if bad is None:
        assert good is not None
        return None if good >= most else min(good * 2, most)
    if good is None:
        half = bad // 2 if whole else bad / 2
        return None if half < (1 if whole else first / 2**_HALVINGS) else half
    if bad - good <= max(PRECISION * good, 1 if whole else 0):
        return None
    return (good + bad) // 2 if whole else (good + bad) / 2
