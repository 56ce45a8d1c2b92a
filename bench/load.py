"""How much a running service carries, measured over HTTP as its listeners have it. Loopback alone.

    python -m bench.load                          the service of this directory's .env, or --url and API_KEY
    python -m bench.load --serve fake             one that is started for it: fake, tiny or a MODEL_PATH
    python -m bench.load --loop closed --track fixed --loads 1 16 64

Closed loop: so many listeners, each asking again as soon as its answer has ended. Open loop: so many requests a
second at random moments (Poisson), whoever still speaks. Fixed track: every answer is cut at --clip-seconds, by
max_audio_length_ms and a text that takes longer to say; natural: answers end where their texts do.

First audio is counted from before the connection is made to the first PCM sample behind any header. A stream
underruns when the audio so far is shorter than the time since its first sample; C100 is the share of streams whose
worst underrun is under 100 ms. A load holds if p95 of first audio is at most 300 ms, C100 at least 99%, and every
request is answered. Without --loads the largest one that holds is searched: doubling, then bisection, never more
than --trials trials and --minutes minutes. Progress goes to stderr; the last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.settings import SettingsError, load_client_settings

from .cpu_info import cpu_name
from .load_test.load_generator import LoadGenerator
from .load_test.metrics import LoadMetrics, compute_metrics
from .load_test.report import HEADER, LIMITS, caveats, clear_progress, line, plot, progress_bar, to_json
from .load_test.search import Found, largest_load
from .load_test.server import ServerError, running_server, system_status, wait_until_idle
from .load_test.trial import FORMATS, Address, Loop, NotLoopbackError, Track, TrackName, Trial

IDLE_SECONDS = 40.0  # for what a trial left behind to end; the service's queue lets nobody wait longer than 30


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--url", help="the service (default: CSM_URL, or HOST and PORT, also from .env)")
    made.add_argument("--serve", metavar="MODEL", help="start a service for it: fake[:options], tiny or a MODEL_PATH")
    made.add_argument("--slots", type=int, help="of the service that is started (default: what it chooses)")
    made.add_argument("--workers", type=int, help="of the service that is started (default: what it chooses)")
    made.add_argument("--device", help="of the service that is started (default: auto)")
    made.add_argument("--start-seconds", type=float, default=300.0, help="for it to be ready (default 300)")
    made.add_argument("--loop", choices=("closed", "open", "both"), default="both")
    made.add_argument("--track", choices=("fixed", "natural", "both"), default="both")
    made.add_argument("--clip-seconds", type=float, default=10.0, help="of a fixed answer (default 10)")
    made.add_argument("--format", choices=FORMATS, default="raw_pcm")
    made.add_argument("--voice", help="a voice_id (default: the service's own)")
    made.add_argument("--loads", type=float, nargs="+", help="measure these and search for none")
    made.add_argument("--first", type=float, default=1.0, help="load of the first trial (default 1)")
    made.add_argument("--most", type=float, default=1024.0, help="the largest load to try (default 1024)")
    made.add_argument("--trials", type=int, default=14, help="of each search, at most (default 14)")
    made.add_argument("--minutes", type=float, default=20.0, help="for everything; no trial begins later (default 20)")
    made.add_argument("--seconds", type=float, default=20.0, help="measured of each trial (default 20)")
    made.add_argument("--ramp", type=float, default=5.0, help="seconds before them (default 5)")
    made.add_argument("--drain", type=float, default=15.0, help="most seconds behind them (default 15)")
    made.add_argument("--processes", type=int, help="of listeners, at most (default: cores less one)")
    made.add_argument("--seed", type=int, default=0, help="of who comes when")
    made.add_argument("--plot", type=Path, metavar="PNG", help="draw the trials, where matplotlib is installed")
    return made


class Bench:
    """Trials against one service, shown as they end."""

    def __init__(self, arguments: argparse.Namespace, address: Address, generator: LoadGenerator) -> None:
        self._arguments, self._address, self._generator = arguments, address, generator
        self._ends: float = time.monotonic() + arguments.minutes * 60
        self.runs: list[LoadMetrics] = []
        self.found: list[dict[str, Any]] = []

    @property
    def in_time(self) -> bool:
        return time.monotonic() < self._ends

    def track(self, name: TrackName) -> Track:
        chosen = self._arguments
        return Track(name, chosen.clip_seconds, chosen.format, chosen.voice)

    def warm_up(self) -> None:
        """One answer heard, so that what the service does once is done."""
        trial = Trial(self._address, self.track("fixed"), "closed", 1, 0.0, 0.1, self._arguments.clip_seconds * 2 + 10)
        figures = compute_metrics(trial, self._generator.run(trial, progress_bar(trial)))
        clear_progress()
        if not figures.answered:
            raise ServerError(f"the service does not speak: {figures.rejects or 'no answer'}")

    def trial(self, loop: Loop, name: TrackName, load: float) -> LoadMetrics:
        chosen = self._arguments
        trial = Trial(
            self._address, self.track(name), loop, load, chosen.ramp, chosen.seconds, chosen.drain, chosen.seed
        )
        figures = compute_metrics(trial, self._generator.run(trial, progress_bar(trial)))
        clear_progress()
        self.runs.append(figures)
        print(line(figures), flush=True)
        for remark in caveats(figures):
            print(f"{'':11}{remark}", flush=True)
        if not wait_until_idle(self._address, IDLE_SECONDS):
            print(f"{'':11}the service is still busy after {IDLE_SECONDS:.0f} s: the next line is no fresh start")
        return figures

    def search(self, loop: Loop, name: TrackName, ends: float) -> Found:
        chosen = self._arguments
        return largest_load(
            lambda load: self.trial(loop, name, load).holds,
            chosen.first,
            chosen.most,
            whole=loop == "closed",
            trials=chosen.trials,
            in_time=lambda: time.monotonic() < ends,
        )

    def all(self) -> str | None:
        """Everything that was asked for. Returns why it ended before that, if it did: what was measured is kept."""
        try:
            self._all()
        except ServerError as error:
            print(f"bench.load: it ends here: {error}", file=sys.stderr)
            return str(error)
        return None

    def _all(self) -> None:
        """Every loop with every track; the time that is left is shared evenly between those still to come."""
        chosen = self._arguments
        loops: list[Loop] = ["closed", "open"] if chosen.loop == "both" else [chosen.loop]
        tracks: list[TrackName] = ["fixed", "natural"] if chosen.track == "both" else [chosen.track]
        kinds = [(loop, track) for track in tracks for loop in loops]
        for number, (loop, track) in enumerate(kinds):
            length = f"answers of {chosen.clip_seconds:g} s" if track == "fixed" else "answers of their own length"
            load = "listeners at once" if loop == "closed" else "requests a second"
            print(f"\n{loop} loop, {track} track: load is {load}, {length}\n{HEADER}", flush=True)
            if chosen.loads:
                for each in chosen.loads:
                    if self.in_time:
                        self.trial(loop, track, each)
                    else:
                        print(f"{each:9g}  not measured: --minutes {chosen.minutes:g} are over")
                continue
            now = time.monotonic()
            found = self.search(loop, track, now + max(self._ends - now, 0.0) / (len(kinds) - number))
            self.found.append({"loop": loop, "track": track, **asdict(found)})
            print(f"{'':11}{told(found, load)}", flush=True)


def told(found: Found, unit: str) -> str:
    if found.load is None:
        return f"no load holds, not even {found.fails:g} {unit}"
    why = {
        "most": "the largest allowed: --most may be raised",
        "trials": "not exact: --trials are used up",
        "time": "not exact: --minutes are used up",
    }.get(found.ended, f"{found.fails:g} do not" if found.fails is not None else "")
    return f"largest that holds: {found.load:g} {unit} ({why})"


@contextlib.contextmanager
def service(arguments: argparse.Namespace) -> Iterator[Address]:
    """Where to measure. Raises ServerError, NotLoopbackError, SettingsError."""
    if arguments.serve is None:
        settings = load_client_settings()
        yield Address.of(arguments.url or settings.url, settings.key or "")
        return
    chosen = {
        "CONCURRENT_REQUESTS_PER_WORKER": arguments.slots,
        "WORKERS": arguments.workers,
        "DEVICE": arguments.device,
    }
    wanted = {name: str(value) for name, value in chosen.items() if value is not None}
    with running_server(arguments.serve, {"LOG_LEVEL": "WARNING", **wanted}, arguments.start_seconds) as address:
        yield address


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    if chosen.loop != "open":
        chosen.first, chosen.most = max(round(chosen.first), 1), max(round(chosen.most), 1)
        if any(load != round(load) or load < 1 for load in chosen.loads or ()):
            print("--loads of a closed loop are whole numbers from 1: so many listeners", file=sys.stderr)
            return 2
    try:
        with service(chosen) as address:
            before = system_status(address)
            workers = [f"{each['engine']} with {each['capacity']} slots" for each in before["workers"]]
            print(f"{', '.join(workers)}; {cpu_name()}\n{LIMITS}", flush=True)
            with LoadGenerator(chosen.processes) as generator:
                bench = Bench(chosen, address, generator)
                bench.warm_up()
                failure = bench.all()
    except (ServerError, NotLoopbackError, SettingsError) as error:
        print(f"bench.load: {error}", file=sys.stderr)
        return 1
    if chosen.plot is not None:
        print(plot(bench.runs, chosen.plot) or f"plot: {chosen.plot}")
    data = {
        "benchmark": "load",
        "machine": cpu_name(),
        "gpus": before["gpus"],
        "workers": [{key: each[key] for key in ("engine", "gpu", "capacity")} for each in before["workers"]],
        "format": chosen.format,
        "clip_seconds": chosen.clip_seconds,
        "seconds": chosen.seconds,
        "runs": [to_json(each) for each in bench.runs],
        "largest": bench.found,
        "error": failure,
    }
    print(json.dumps(data))
    return 0 if failure is None else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also then, the service that was started is stopped
    sys.exit(main())
