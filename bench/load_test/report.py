"""What is shown of the trials: progress and a table for people, a plot, and plain data for programs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .load_generator import ProgressCallback
from .metrics import FIRST_AUDIO_LIMIT, PERCENTILES, UNDERRUN_SHARE, UNDERRUNS, LoadMetrics
from .trial import Trial

_BAR = 24  # characters

HEADER = (
    f"{'load':>9}{'streams':>9}  {'first audio, ms: p50':>20}{'p90':>7}{'p95':>7}{'p99':>7}"
    f"{'C50':>8}{'C100':>8}{'C200':>8}{'gap ms':>8}{'at once':>9}{'audio s/s':>11}{'each':>7}  verdict"
)
LIMITS = f"limits: p95 {FIRST_AUDIO_LIMIT * 1000:.0f} ms, C100 {UNDERRUN_SHARE:.0%}, all answered; floor of each: 1.0"


def progress_bar(trial: Trial) -> ProgressCallback:
    """A bar on stderr, rewritten in place; nothing where nobody looks."""

    def draw(seconds: float, speaking: int, ended: int, unanswered: int) -> None:
        if not sys.stderr.isatty():
            return
        done = round(_BAR * min(max(seconds, 0.0) / trial.longest, 1.0))
        sys.stderr.write(
            f"\r[{'#' * done:{_BAR}}] {trial.loop} {format_load(trial.load)} {max(seconds, 0):4.0f} s of at most "
            f"{trial.longest:.0f}: {speaking} under way, {ended} ended, {unanswered} not answered \033[K"
        )
        sys.stderr.flush()

    return draw


def clear_progress() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def format_load(load: float) -> str:
    return f"{load:g}" if load == round(load) else f"{load:.2f}"


def line(figures: LoadMetrics) -> str:
    first = figures.first_audio or {}
    times = [f"{first[percent] * 1000:.0f}" if first else "-" for percent in PERCENTILES]
    shares = [f"{figures.c[ms]:.1%}" if figures.c else "-" for ms in UNDERRUNS]
    gap = "-" if figures.worst_gap is None else f"{figures.worst_gap * 1000:.0f}"
    rejects = ", ".join(f"{count} x {reason}" for reason, count in sorted(figures.rejects.items()))
    verdict = "holds" if figures.holds else "; ".join(figures.broken) + (f" ({rejects})" if rejects else "")
    return (
        f"{format_load(figures.load):>9}{figures.streams:9}  {times[0]:>20}{times[1]:>7}{times[2]:>7}{times[3]:>7}"
        f"{shares[0]:>8}{shares[1]:>8}{shares[2]:>8}{gap:>8}{figures.at_once:9.1f}{figures.rate:11.2f}"
        f"{figures.each:7.2f}  {verdict}"
    )


def caveats(figures: LoadMetrics) -> list[str]:
    """What a reader must know before believing a line."""
    found = []
    if figures.late > 0.02:
        found.append(f"requests were sent up to {figures.late * 1000:.0f} ms late: the listeners lack processor time")
    if 0 < figures.streams < 100:
        found.append(f"{figures.streams} streams: one that stutters is {1 / figures.streams:.1%} of them")
    if figures.track == "fixed" and figures.lengths and figures.lengths[1] - figures.lengths[0] > 0.001:
        shortest, longest = figures.lengths
        found.append(f"answers are not of one length, but {shortest:.2f} to {longest:.2f} s")
    return found


def to_json(figures: LoadMetrics) -> dict[str, Any]:
    """For JSON; times in milliseconds where the name says so."""

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1000, 1)

    first, shares = figures.first_audio, figures.c
    return {
        "loop": figures.loop,
        "track": figures.track,
        "load": round(figures.load, 3),
        "streams": figures.streams,
        "answered": figures.answered,
        "rejects": figures.rejects,
        "first_audio_ms": {f"p{percent}": ms(value) for percent, value in first.items()} if first else None,
        **{f"c{each}": round(shares[each], 4) if shares else None for each in UNDERRUNS},
        "worst_gap_ms": ms(figures.worst_gap),
        "worst_underrun_ms": ms(figures.worst_underrun),
        "at_once": round(figures.at_once, 2),
        "audio_seconds_per_second": round(figures.rate, 3),
        "audio_seconds_per_second_each": round(figures.each, 3),
        "answer_seconds": [round(each, 2) for each in figures.lengths] if figures.lengths else None,
        "sent_late_ms": ms(figures.late),
        "holds": figures.holds,
        "broken": figures.broken,
    }


def plot(runs: Sequence[LoadMetrics], path: Path) -> str | None:
    """First audio and C100 against the load, one curve a loop and track. Returns why there is none, if so."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError:
        return "no plot: matplotlib is not installed"
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True)
    for name in dict.fromkeys((each.loop, each.track) for each in runs):
        mine = sorted((each for each in runs if (each.loop, each.track) == name), key=lambda each: each.load)
        heard = [each for each in mine if each.first_audio and each.c]
        label = f"{name[0]} loop, {name[1]}"
        loads = [each.load for each in heard]
        above.plot(loads, [each.first_audio[95] * 1000 for each in heard if each.first_audio], "o-", label=label)
        below.plot(loads, [each.c[100] * 100 for each in heard if each.c], "o-", label=label)
    above.axhline(FIRST_AUDIO_LIMIT * 1000, color="grey", linestyle=":")
    below.axhline(UNDERRUN_SHARE * 100, color="grey", linestyle=":")
    above.set(ylabel="first audio p95, ms", yscale="log")
    below.set(ylabel="C100, %", xlabel="load: listeners at once (closed), requests a second (open)", xscale="log")
    if runs:
        above.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return None
