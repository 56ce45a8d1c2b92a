"""Load test output: progress bar, table, plot and JSON."""

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
    """A callback that redraws a progress bar on stderr; does nothing if stderr is not a terminal."""

    def draw(seconds: float, active: int, ended: int, unanswered: int) -> None:
        if not sys.stderr.isatty():
            return
        done = round(_BAR * min(max(seconds, 0.0) / trial.max_seconds, 1.0))
        sys.stderr.write(
            f"\r[{'#' * done:{_BAR}}] {trial.loop} {format_load(trial.load)} {max(seconds, 0):4.0f} s of at most "
            f"{trial.max_seconds:.0f}: {active} active, {ended} ended, {unanswered} not answered \033[K"
        )
        sys.stderr.flush()

    return draw


def clear_progress() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def format_load(load: float) -> str:
    return f"{load:g}" if load == round(load) else f"{load:.2f}"


def table_row(metrics: LoadMetrics) -> str:
    first = metrics.first_audio or {}
    times = [f"{first[percent] * 1000:.0f}" if first else "-" for percent in PERCENTILES]
    shares = [f"{metrics.underrun_shares[ms]:.1%}" if metrics.underrun_shares else "-" for ms in UNDERRUNS]
    gap = "-" if metrics.worst_gap is None else f"{metrics.worst_gap * 1000:.0f}"
    rejects = ", ".join(f"{count} x {reason}" for reason, count in sorted(metrics.rejects.items()))
    verdict = "holds" if metrics.holds else "; ".join(metrics.violations) + (f" ({rejects})" if rejects else "")
    return (
        f"{format_load(metrics.load):>9}{metrics.streams:9}  {times[0]:>20}{times[1]:>7}{times[2]:>7}{times[3]:>7}"
        f"{shares[0]:>8}{shares[1]:>8}{shares[2]:>8}{gap:>8}{metrics.concurrency:9.1f}{metrics.audio_rate:11.2f}"
        f"{metrics.rate_per_stream:7.2f}  {verdict}"
    )


def caveats(metrics: LoadMetrics) -> list[str]:
    """Notes on conditions that make a row less reliable."""
    found = []
    if metrics.send_delay > 0.02:
        found.append(
            f"requests were sent up to {metrics.send_delay * 1000:.0f} ms late: the load generator lacks CPU time"
        )
    if 0 < metrics.streams < 100:
        found.append(f"{metrics.streams} streams: a single underrun is {1 / metrics.streams:.1%} of them")
    if (
        metrics.track == "fixed"
        and metrics.answer_seconds
        and metrics.answer_seconds[1] - metrics.answer_seconds[0] > 0.001
    ):
        shortest, longest = metrics.answer_seconds
        found.append(f"answers have different lengths: {shortest:.2f} to {longest:.2f} s")
    return found


def to_json(metrics: LoadMetrics) -> dict[str, Any]:
    """Metrics as JSON data. Times are in seconds unless the key ends in `_ms`."""

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1000, 1)

    first, shares = metrics.first_audio, metrics.underrun_shares
    return {
        "loop": metrics.loop,
        "track": metrics.track,
        "load": round(metrics.load, 3),
        "streams": metrics.streams,
        "answered": metrics.answered,
        "rejects": metrics.rejects,
        "first_audio_ms": {f"p{percent}": ms(value) for percent, value in first.items()} if first else None,
        **{f"c{each}": round(shares[each], 4) if shares else None for each in UNDERRUNS},
        "worst_gap_ms": ms(metrics.worst_gap),
        "worst_underrun_ms": ms(metrics.worst_underrun),
        "at_once": round(metrics.concurrency, 2),
        "audio_seconds_per_second": round(metrics.audio_rate, 3),
        "audio_seconds_per_second_each": round(metrics.rate_per_stream, 3),
        "answer_seconds": [round(each, 2) for each in metrics.answer_seconds] if metrics.answer_seconds else None,
        "sent_late_ms": ms(metrics.send_delay),
        "holds": metrics.holds,
        "broken": metrics.violations,
    }


def plot(runs: Sequence[LoadMetrics], path: Path) -> str | None:
    """Plot first audio and C100 against the load, one curve per loop and track. Returns a message if it cannot."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError:
        return "no plot: matplotlib is not installed"
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True)
    for name in dict.fromkeys((each.loop, each.track) for each in runs):
        points = sorted((each for each in runs if (each.loop, each.track) == name), key=lambda each: each.load)
        audible = [each for each in points if each.first_audio and each.underrun_shares]
        label = f"{name[0]} loop, {name[1]}"
        loads = [each.load for each in audible]
        above.plot(loads, [each.first_audio[95] * 1000 for each in audible if each.first_audio], "o-", label=label)
        below.plot(
            loads, [each.underrun_shares[100] * 100 for each in audible if each.underrun_shares], "o-", label=label
        )
    above.axhline(FIRST_AUDIO_LIMIT * 1000, color="grey", linestyle=":")
    below.axhline(UNDERRUN_SHARE * 100, color="grey", linestyle=":")
    above.set(ylabel="first audio p95, ms", yscale="log")
    below.set(ylabel="C100, %", xlabel="load: concurrent clients (closed), requests per second (open)", xscale="log")
    if runs:
        above.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return None
