"""What a trial says about a load: the figures, and whether it holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .client_process import ClientResults
from .stream_timing import RequestResult
from .trial import Loop, TrackName, Trial

FIRST_AUDIO_LIMIT = 0.300  # seconds, at p95
UNDERRUN_LIMIT = 0.100  # seconds
UNDERRUN_SHARE = 0.99  # of the streams stay under it
PERCENTILES = (50, 90, 95, 99)
UNDERRUNS = (50, 100, 200)  # ms


@dataclass(frozen=True)
class LoadMetrics:
    """Times in seconds; None where nothing was heard.

    streams: requests that were measured. answered: those with sound and no failure. rejects: by status, or by how they
    ended. c: the share of the streams with sound whose worst underrun is under so many ms. at_once: requests under way,
    on average. rate: seconds of audio a second, of all. late: the worst of the sender itself.
    """

    loop: Loop
    track: TrackName
    load: float
    streams: int
    answered: int
    rejects: dict[str, int]
    first_audio: dict[int, float] | None
    c: dict[int, float] | None
    worst_gap: float | None
    worst_underrun: float | None
    at_once: float
    rate: float
    lengths: tuple[float, float] | None  # of the whole answers, shortest and longest
    late: float

    @property
    def each(self) -> float:
        """Seconds of audio a second that each stream gets: below 1 it cannot go on."""
        return self.rate / self.at_once if self.at_once else 0.0

    @property
    def holds(self) -> bool:
        return not self.broken

    @property
    def broken(self) -> list[str]:
        """Which of the conditions do not hold; none: the load does."""
        if not self.streams:
            return ["nothing was measured"]
        broken = []
        if self.answered < self.streams:
            broken.append(f"{self.streams - self.answered} not answered")
        if self.first_audio is None or self.first_audio[95] > FIRST_AUDIO_LIMIT:
            broken.append(f"first audio over {FIRST_AUDIO_LIMIT * 1000:.0f} ms")
        if self.c is None or self.c[round(UNDERRUN_LIMIT * 1000)] < UNDERRUN_SHARE:
            broken.append(f"C{UNDERRUN_LIMIT * 1000:.0f} under {UNDERRUN_SHARE:.0%}")
        return broken


def compute_metrics(trial: Trial, heard: ClientResults) -> LoadMetrics:
    opens, closes = trial.ramp, trial.ramp + trial.seconds
    measured = [each for each in heard.outcomes if each.measured]
    audible = [each for each in measured if each.first_audio is not None]
    under_way = sum(max(min(each.ended, closes) - max(each.sent, opens), 0.0) for each in heard.outcomes)
    lengths = [each.audio for each in measured if each.end == "whole"]
    return LoadMetrics(
        loop=trial.loop,
        track=trial.track.name,
        load=trial.load,
        streams=len(measured),
        answered=sum(each.answered for each in measured),
        rejects=dict(Counter(_reason(each) for each in measured if not each.answered)),
        first_audio=_percentiles([each.first_audio for each in audible if each.first_audio is not None]),
        c={ms: sum(each.underrun * 1000 < ms for each in audible) / len(audible) for ms in UNDERRUNS}
        if audible
        else None,
        worst_gap=max((each.gap for each in audible), default=None),
        worst_underrun=max((each.underrun for each in audible), default=None),
        at_once=under_way / trial.seconds,
        rate=heard.window_audio / trial.seconds,
        lengths=(min(lengths), max(lengths)) if lengths else None,
        late=max((each.late for each in heard.outcomes), default=0.0),
    )


def _reason(outcome: RequestResult) -> str:
    return str(outcome.status) if outcome.end == "rejected" else outcome.end


def _percentiles(values: Sequence[float]) -> dict[int, float] | None:
    """By nearest rank: each is a value that was measured."""
    if not values:
        return None
    ordered = sorted(values)
    return {percent: ordered[math.ceil(percent / 100 * len(ordered)) - 1] for percent in PERCENTILES}
