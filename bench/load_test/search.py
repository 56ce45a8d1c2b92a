"""Finds the largest load that holds, by doubling and bisection. Pure: the caller runs the trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

PRECISION = 0.1  # stop when the smallest failing load is within 10% of the largest that holds
_HALVINGS = 6  # how often a failing first load is halved


@dataclass(frozen=True)
class Found:
    """Result of a search. load: the largest that held, or None. fails: the smallest that did not.

    ended: exact (within PRECISION); most (the largest allowed load holds); trials or time (limit reached first);
    nothing (no load holds).
    """

    load: float | None
    fails: float | None
    ended: Literal["exact", "most", "trials", "time", "nothing"]


def largest_load(
    holds: Callable[[float], bool],
    first: float,
    max_load: float,
    *,
    integer: bool,
    trials: int,
    has_time: Callable[[], bool] = lambda: True,
) -> Found:
    """Double from `first` until a load fails or `max_load` holds, then bisect. If `first` fails, halve.

    holds: runs a trial. integer: loads are integers from 1. trials: maximum number of trials. has_time: checked before
    every trial but the first.
    """
    good: float | None = None
    bad: float | None = None
    load = min(first, max_load)
    for trial in range(trials):
        if trial and not has_time():
            return Found(good, bad, "time")
        if holds(load):
            good = load
        else:
            bad = load
        next_load = _next(good, bad, first, max_load, integer)
        if next_load is None:
            return Found(good, bad, "nothing" if good is None else "most" if bad is None else "exact")
        load = next_load
    return Found(good, bad, "trials")


def _next(good: float | None, bad: float | None, first: float, max_load: float, integer: bool) -> float | None:
    if bad is None:
        assert good is not None
        return None if good >= max_load else min(good * 2, max_load)
    if good is None:
        half = bad // 2 if integer else bad / 2
        return None if half < (1 if integer else first / 2**_HALVINGS) else half
    if bad - good <= max(PRECISION * good, 1 if integer else 0):
        return None
    return (good + bad) // 2 if integer else (good + bad) / 2
