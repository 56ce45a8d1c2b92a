"""Load test of a running service over HTTP or WebSockets: finds the largest load it serves in real time. Loopback only.

    python -m bench.load                          the service of this directory's .env, or --url and API_KEY
    python -m bench.load --serve fake             starts a service: fake, tiny or a MODEL_PATH
    python -m bench.load --loop closed --track fixed --loads 1 16 64

Closed loop: a number of clients, each sending its next request when the last has ended. Open loop: requests per second
as a Poisson process, regardless of active streams. Burst: a number of clients that all send at the same moment; the
first audio of one alone is printed as its floor. Fixed track: every answer is cut at --clip-seconds, by
max_audio_length_ms and a text that takes longer to speak. Natural track: answers end with their texts.

First audio is measured from before the connection is made to the first PCM sample after any header. A stream underruns
when its audio so far is shorter than the time since its first sample; C100 is the share of streams whose worst underrun
is under 100 ms. A load holds if p95 of first audio is at most 300 ms, C100 is at least 99%, and every request is
answered. Without --loads, the largest load that holds is searched by doubling and bisection, within --trials trials and
--minutes minutes. Progress goes to stderr; the last line is JSON.
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

from csm_serve_client import Misconfigured
from csm_serve_client.environment import address_and_key

from .cpu_info import cpu_name
from .load_test.load_generator import LoadGenerator
from .load_test.metrics import LoadMetrics, compute_metrics
from .load_test.report import HEADER, LIMITS, caveats, clear_progress, plot, progress_bar, table_row, to_json
from .load_test.search import Found, largest_load
from .load_test.server import ServerError, running_server, system_status, wait_until_idle
from .load_test.trial import FORMATS, Address, Loop, NotLoopbackError, Track, TrackName, Trial

IDLE_SECONDS = 40.0  # for streams of the last trial to end; the service's queue timeout is 30


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--url", help="URL of the service (default: CSM_URL, or HOST and PORT, also from .env)")
    made.add_argument("--serve", metavar="MODEL", help="start a service: fake[:options], tiny or a MODEL_PATH")
    made.add_argument("--slots", type=int, help="slots per worker of the started service (default: automatic)")
    made.add_argument("--workers", type=int, help="workers of the started service (default: automatic)")
    made.add_argument("--device", help="device of the started service (default: auto)")
    made.add_argument(
        "--start-seconds", type=float, default=300.0, help="startup timeout of the started service (default 300)"
    )
    made.add_argument(
        "--loop", choices=("closed", "open", "burst", "both"), default="both", help="both: closed and open"
    )
    made.add_argument("--track", choices=("fixed", "natural", "both"), default="both")
    made.add_argument("--clip-seconds", type=float, default=10.0, help="length of a fixed answer (default 10)")
    made.add_argument("--format", choices=FORMATS, default="raw_pcm")
    made.add_argument("--voice", help="a voice_id (default: the service's)")
    made.add_argument("--loads", type=float, nargs="+", help="measure these loads instead of searching")
    made.add_argument("--first", type=float, default=1.0, help="load of the first trial (default 1)")
    made.add_argument("--most", type=float, default=1024.0, help="the largest load to try (default 1024)")
    made.add_argument("--trials", type=int, default=14, help="maximum per search (default 14)")
    made.add_argument("--minutes", type=float, default=20.0, help="total time; no trial starts later (default 20)")
    made.add_argument("--seconds", type=float, default=20.0, help="measured per trial (default 20)")
    made.add_argument("--ramp", type=float, default=5.0, help="seconds before the measurement (default 5)")
    made.add_argument("--drain", type=float, default=15.0, help="maximum seconds after the measurement (default 15)")
    made.add_argument("--processes", type=int, help="maximum client processes (default: cores less one)")
    made.add_argument("--seed", type=int, default=0, help="of the request times")
    made.add_argument("--plot", type=Path, metavar="PNG", help="plot the trials; needs matplotlib")
    return made


class Bench:
    """Runs trials against one service and prints each as it ends."""

    def __init__(self, arguments: argparse.Namespace, address: Address, generator: LoadGenerator) -> None:
        self._arguments, self._address, self._generator = arguments, address, generator
        self._deadline: float = time.monotonic() + arguments.minutes * 60
        self.runs: list[LoadMetrics] = []
        self.found: list[dict[str, Any]] = []
        self.alone: float | None = None  # seconds until the first audio of one request: the floor

    @property
    def has_time(self) -> bool:
        return time.monotonic() < self._deadline

    def track(self, name: TrackName) -> Track:
        chosen = self._arguments
        return Track(name, chosen.clip_seconds, chosen.format, chosen.voice)

    def warm_up(self) -> None:
        """Run one request, so that one-time work of the service is done."""
        trial = Trial(self._address, self.track("fixed"), "closed", 1, 0.0, 0.1, self._arguments.clip_seconds * 2 + 10)
        results = self._generator.run(trial, progress_bar(trial))
        metrics = compute_metrics(trial, results)
        clear_progress()
        if not metrics.answered:
            raise ServerError(f"the service returns no audio: {metrics.rejects or 'no answer'}")
        self.alone = min((each.first_audio for each in results.requests if each.first_audio is not None), default=None)

    def trial(self, loop: Loop, name: TrackName, load: float) -> LoadMetrics:
        chosen = self._arguments
        trial = Trial(
            self._address, self.track(name), loop, load, chosen.ramp, chosen.seconds, chosen.drain, chosen.seed
        )
        metrics = compute_metrics(trial, self._generator.run(trial, progress_bar(trial)))
        clear_progress()
        self.runs.append(metrics)
        print(table_row(metrics), flush=True)
        for remark in caveats(metrics):
            print(f"{'':11}{remark}", flush=True)
        if not wait_until_idle(self._address, IDLE_SECONDS):
            print(f"{'':11}the service is still busy after {IDLE_SECONDS:.0f} s; the next trial overlaps")
        return metrics

    def search(self, loop: Loop, name: TrackName, deadline: float) -> Found:
        chosen = self._arguments
        return largest_load(
            lambda load: self.trial(loop, name, load).holds,
            chosen.first,
            chosen.most,
            integer=loop != "open",
            trials=chosen.trials,
            has_time=lambda: time.monotonic() < deadline,
        )

    def all(self) -> str | None:
        """Run all requested trials. Returns the error that ended them early, if any; results so far are kept."""
        try:
            self._all()
        except ServerError as error:
            print(f"bench.load: stopped: {error}", file=sys.stderr)
            return str(error)
        return None

    def _all(self) -> None:
        """Every loop with every track; the remaining time is shared evenly between them."""
        chosen = self._arguments
        loops: list[Loop] = ["closed", "open"] if chosen.loop == "both" else [chosen.loop]
        tracks: list[TrackName] = ["fixed", "natural"] if chosen.track == "both" else [chosen.track]
        kinds = [(loop, track) for track in tracks for loop in loops]
        for number, (loop, track) in enumerate(kinds):
            length = f"answers of {chosen.clip_seconds:g} s" if track == "fixed" else "answers of natural length"
            load = "requests per second" if loop == "open" else "concurrent clients"
            floor = (
                "" if self.alone is None else f"; floor of first audio, one request alone: {self.alone * 1e3:.0f} ms"
            )
            print(f"\n{loop} loop, {track} track: load is {load}, {length}{floor}\n{HEADER}", flush=True)
            if chosen.loads:
                for each in chosen.loads:
                    if self.has_time:
                        self.trial(loop, track, each)
                    else:
                        print(f"{each:9g}  not measured: --minutes {chosen.minutes:g} used up")
                continue
            now = time.monotonic()
            found = self.search(loop, track, now + max(self._deadline - now, 0.0) / (len(kinds) - number))
            self.found.append({"loop": loop, "track": track, **asdict(found)})
            print(f"{'':11}{describe(found, load)}", flush=True)


def describe(found: Found, unit: str) -> str:
    if found.load is None:
        return f"no load holds, not even {found.fails:g} {unit}"
    why = {
        "most": "the largest allowed; raise --most",
        "trials": "not exact: --trials used up",
        "time": "not exact: --minutes used up",
    }.get(found.ended, f"{found.fails:g} does not" if found.fails is not None else "")
    return f"largest load that holds: {found.load:g} {unit} ({why})"


@contextlib.contextmanager
def service(arguments: argparse.Namespace) -> Iterator[Address]:
    """The service under test, started if requested. Raises ServerError, NotLoopbackError, Misconfigured."""
    if arguments.serve is None:
        url, key = address_and_key()
        yield Address.of(arguments.url or url, key or "")
        return
    chosen = {
        "CONCURRENT_REQUESTS_PER_WORKER": arguments.slots,
        "WORKERS": arguments.workers,
        "DEVICE": arguments.device,
    }
    overrides = {name: str(value) for name, value in chosen.items() if value is not None}
    with running_server(arguments.serve, {"LOG_LEVEL": "WARNING", **overrides}, arguments.start_seconds) as address:
        yield address


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    if chosen.loop != "open":
        chosen.first, chosen.most = max(round(chosen.first), 1), max(round(chosen.most), 1)
        if any(load != round(load) or load < 1 for load in chosen.loads or ()):
            print("--loads of a closed loop or a burst are numbers of clients: integers from 1", file=sys.stderr)
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
    except (ServerError, NotLoopbackError, Misconfigured) as error:
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
        "first_audio_alone_ms": None if bench.alone is None else round(bench.alone * 1e3, 1),
        "runs": [to_json(each) for each in bench.runs],
        "largest": bench.found,
        "error": failure,
    }
    print(json.dumps(data))
    return 0 if failure is None else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the started service on SIGTERM
    sys.exit(main())
