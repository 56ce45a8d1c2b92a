"""Sections of a run: each has a time limit, and a failure or a timeout ends only its own section."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from .records import Recorder

T = TypeVar("T")
_LEAST_SECONDS = 5.0  # a section is skipped if less is left


@dataclass(frozen=True)
class Section(Generic[T]):
    """Work on a shared session of type T.

    limit: seconds, on a GPU. stages: the stages it belongs to. needs: sections that run before it.
    """

    name: str
    limit: float
    stages: tuple[str, ...]
    work: Callable[[T], None]
    needs: tuple[str, ...] = ()


class SectionTimeout(BaseException):
    """The section's time limit has passed. Not an Exception: after those the engine falls back to plain kernels."""


def select(
    sections: Collection[Section[T]], stages: Collection[str], only: Collection[str], skip: Collection[str]
) -> list[Section[T]]:
    """Sections of the stages, in order, with those they need. only: names in place of stages. Raises ValueError."""
    by_name = {section.name: section for section in sections}
    if unknown := [name for name in (*only, *skip) if name not in by_name]:
        raise ValueError(f"no section {', '.join(unknown)}; there are {', '.join(by_name)}")
    wanted = {each.name for each in sections if (each.name in only if only else set(each.stages) & set(stages))}
    wanted -= set(skip)
    pending = list(wanted)
    while pending:
        needs = set(by_name[pending.pop()].needs) - wanted
        if skipped := needs & set(skip):
            raise ValueError(f"cannot skip {', '.join(sorted(skipped))}: another section needs it")
        wanted |= needs
        pending += needs
    return [section for section in sections if section.name in wanted]


def run_sections(
    sections: Collection[Section[T]], session: T, recorder: Recorder, seconds: float, factor: float = 1.0
) -> bool:
    """Run the sections within `seconds` in total. True if all succeeded. factor: on the sections' limits.

    A section is skipped if the time is up or a section that it needs did not succeed.
    """
    ends = time.monotonic() + seconds
    failed: set[str] = set()
    for section in sections:
        limit = min(section.limit * factor, ends - time.monotonic())
        reason = "the time is up" if limit < _LEAST_SECONDS else ""
        if missing := failed & set(section.needs):
            reason = f"it needs {', '.join(sorted(missing))}"
        if reason:
            recorder.add(section.name, skipped=reason)
            failed.add(section.name)
            continue
        started = time.monotonic()
        try:
            with _time_limit(limit):
                section.work(session)
        except SectionTimeout:
            recorder.add(section.name, exceeded_seconds=limit)
            failed.add(section.name)
        except Exception as error:  # whatever it is, the other sections are measured
            recorder.add(section.name, failed=f"{type(error).__name__}: {str(error)[:1000]}")
            traceback.print_exc()
            failed.add(section.name)
        recorder.add(f"{section.name}.seconds", seconds=time.monotonic() - started)
    return not failed


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise SectionTimeout in the main thread after `seconds`, between two Python instructions.

    An alarm that was set before, such as a test's own limit, goes on afterwards.
    """

    def expire(*_: object) -> None:
        raise SectionTimeout

    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, expire)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001))
