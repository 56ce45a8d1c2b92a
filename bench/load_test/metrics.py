"""Metrics of a trial, and whether its load holds: the limits on first audio, underruns and failures."""

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
UNDERRUN_SHARE = 0.99  # share of streams that must stay below UNDERRUN_LIMIT
PERCENTILES = (50, 90, 95, 99)
UNDERRUNS = (50, 100, 200)  # ms


@dataclass(frozen=True)
class LoadMetrics:
    """Metrics of one trial. Times are in seconds; None if no audio arrived.

    streams: measured requests. answered: those with audio and no failure. rejects: failed ones by status or ending.
    underrun_shares: share of streams with audio whose worst underrun is below so many ms. concurrency: mean number of
    active requests. audio_rate: seconds of audio per second, all streams. send_delay: worst delay of a send.
    """

    loop: Loop
    track: TrackName
    load: float
    streams: int
    answered: int
    rejects: dict[str, int]
    first_audio: dict[int, float] | None
    underrun_shares: dict[int, float] | None
    worst_gap: float | None
    worst_underrun: float | None
    concurrency: float
    audio_rate: float
    answer_seconds: tuple[float, float] | None  # shortest and longest complete answer
    send_delay: float

    @property
    def rate_per_stream(self) -> float:
        """Seconds of audio per second and stream: below 1 streams cannot play without pauses."""
        return self.audio_rate / self.concurrency if self.concurrency else 0.0

    @property
    def holds(self) -> bool:
        return not self.violations

    @property
    def violations(self) -> list[str]:
        """The conditions that are not met. Empty: the load holds."""
        if not self.streams:
            return ["nothing was measured"]
        found = []
        if self.answered < self.streams:
            found.append(f"{self.streams - self.answered} not answered")
        if self.first_audio is None or self.first_audio[95] > FIRST_AUDIO_LIMIT:
            found.append(f"first audio over {FIRST_AUDIO_LIMIT * 1000:.0f} ms")
        if self.underrun_shares is None or self.underrun_shares[round(UNDERRUN_LIMIT * 1000)] < UNDERRUN_SHARE:
            found.append(f"C{UNDERRUN_LIMIT * 1000:.0f} under {UNDERRUN_SHARE:.0%}")
        return found


def compute_metrics(trial: Trial, results: ClientResults) -> LoadMetrics:
    window_start, window_end = trial.ramp, trial.ramp + trial.seconds
    measured = [each for each in results.requests if each.measured]
    audible = [each for each in measured if each.first_audio is not None]
    active_seconds = sum(
        max(min(each.ended, window_end) - max(each.sent, window_start), 0.0) for each in results.requests
    )
    lengths = [each.audio for each in measured if each.end == "whole"]
    return LoadMetrics(
        loop=trial.loop,
        track=trial.track.name,
        load=trial.load,
        streams=len(measured),
        answered=sum(each.answered for each in measured),
        rejects=dict(Counter(_reason(each) for each in measured if not each.answered)),
        first_audio=_percentiles([each.first_audio for each in audible if each.first_audio is not None]),
        underrun_shares={ms: sum(each.underrun * 1000 < ms for each in audible) / len(audible) for ms in UNDERRUNS}
        if audible
        else None,
        worst_gap=max((each.gap for each in audible), default=None),
        worst_underrun=max((each.underrun for each in audible), default=None),
        concurrency=active_seconds / trial.seconds,
        audio_rate=results.window_audio / trial.seconds,
        answer_seconds=(min(lengths), max(lengths)) if lengths else None,
        send_delay=max((each.late for each in results.requests), default=0.0),
    )


def _reason(result: RequestResult) -> str:
    return str(result.status) if result.end == "rejected" else result.end


def _percentiles(values: Sequence[float]) -> dict[int, float] | None:
    """Percentiles by nearest rank, so each is a measured value."""
    if not values:
        return None
    ordered = sorted(values)
    return {percent: ordered[math.ceil(percent / 100 * len(ordered)) - 1] for percent in PERCENTILES}
