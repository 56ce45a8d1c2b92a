"""Everything that needs a GPU, in one call of under ten minutes: the tests first, then the figures.

    python -m bench.gpu [--results DIRECTORY] [--cpu | --tiny] [--price 3.50]

Runs tests/gpu, then the benchmarks on a checkpoint of chance at CSM-1B's full size: a frame, its attention in both
ways, what a service carries over HTTP, the peers, 8-bit depth weights beside the others, and the same frame without
compiling. Each step's output is kept in DIRECTORY. No step may take longer than its limit, all together than --minutes;
what does not fit is told of and left out. Where a price for an hour of this GPU is given, bench.cost follows.
--cpu: the same on the processor with few rows, for the ratios (3.5 GB of weights, 16 GB of memory, half an hour).
--tiny: a small checkpoint on whatever there is, to see that the scripts work.
Ends with status 1 if a step failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Step:
    """limit: most seconds that it may take."""

    name: str
    limit: float
    command: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How much is measured. rows: of a frame. loads: listeners at once over HTTP."""

    size: str
    rows: tuple[int, ...]
    peer_rows: tuple[int, ...]
    streams: tuple[int, ...]
    frames: int
    loads: tuple[int, ...]
    seconds: int
    clip_seconds: int
    minutes: float
    limits: float = 1.0  # times what the steps are given on a GPU


GPU = Plan("full", (1, 8, 32, 64, 128, 256), (1, 8, 64), (8,), 25, (1, 64, 256, 512), 12, 8, 9.5)
CPU = Plan("full", (1, 2, 8, 16), (1, 8, 16), (8,), 10, (1,), 60, 4, 40, 5.0)
TINY = Plan("tiny", (1, 4), (1, 4), (2,), 5, (1, 2), 4, 2, 9.5)


def steps_of(plan: Plan, folder: str, device: str, tests: bool) -> list[Step]:
    """In the order of what one would miss most."""
    common = ("--model", folder, "--device", device)
    rows = tuple(map(str, plan.rows))
    load = [
        *("bench.load", "--serve", folder, "--device", device, "--loop", "closed", "--track", "fixed"),
        *("--slots", str(max(plan.loads)), "--loads", *map(str, plan.loads), "--seconds", str(plan.seconds)),
        *("--clip-seconds", str(plan.clip_seconds), "--ramp", "4", "--drain", str(2 * plan.clip_seconds)),
        *("--start-seconds", str(60 * plan.limits + 30), "--minutes", str(2 * plan.limits)),
    ]
    peers = [
        *("bench.peers", *common, "--rows", *map(str, plan.peer_rows), "--streams", *map(str, plan.streams)),
        *("--frames", str(plan.frames), "--rounds", "2"),
    ]
    every = [
        Step("checkpoint", 120, ("engine.random_checkpoint", folder, "--size", plan.size)),
        Step("frame", 120, ("bench.frame", *common, "--rows", *rows)),
        Step("attention", 40, ("bench.attention", *common, "--rows", *rows[::2])),
        Step("load", 210, tuple(load)),
        Step("peers", 150, tuple(peers)),
        Step("depth-weights", 150, ("bench.depth_weights", *common, "--rows", *rows[:4], "--frames", str(plan.frames))),
        Step("frame-plain", 60, ("bench.frame", *common, "--rows", *rows[:3], "--compile", "off")),
    ]
    if tests:
        every.insert(0, Step("tests", 120, ("pytest", "-q", "-p", "no:cacheprovider", "tests/gpu")))
    return every


def run(step: Step, results: Path, seconds: float) -> bool:
    """One step, its output shown and kept. True if it went well, and in time."""
    print(f"\n==== {step.name}: {' '.join(step.command)}", flush=True)
    begun = time.perf_counter()
    command = [sys.executable, "-u", "-m", *step.command]
    with (
        (results / f"{step.name}.txt").open("w", encoding="utf-8") as log,
        # In a session of its own, with all that it starts, it can be ended as one.
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        alarms = [
            threading.Timer(seconds + grace, _end, (process.pid, how))
            for grace, how in ((0, signal.SIGTERM), (20, signal.SIGKILL))
        ]
        for alarm in alarms:
            alarm.daemon = True
            alarm.start()
        try:
            for line in process.stdout:
                sys.stdout.write(line)
                log.write(line)
            good = process.wait() == 0
        finally:
            for alarm in alarms:
                alarm.cancel()
            _end(process.pid, signal.SIGKILL)
    took = time.perf_counter() - begun
    late = f", over its {seconds:.0f} s" if took > seconds else ""
    print(f"==== {step.name}: {'ok' if good else 'FAILED'} in {took:.0f} s{late}", flush=True)
    return good


def _end(session: int, how: signal.Signals) -> None:
    try:
        os.killpg(session, how)
    except ProcessLookupError:
        return


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("bench-results"))
    parser.add_argument("--price", type=float, help="of this GPU for an hour: then bench.cost follows")
    parser.add_argument("--minutes", type=float, help="for everything (default 9.5, with --cpu 40)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cpu", action="store_true", help="full size on the processor")
    kind.add_argument("--tiny", action="store_true", help="a small checkpoint")
    chosen = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() and not chosen.cpu else "cpu"
    if device == "cpu" and not (chosen.cpu or chosen.tiny):
        print(
            "PyTorch finds no CUDA device here: --cpu measures the processor at full size (half an hour, 16 GB of "
            "memory), --tiny only shows that the scripts work",
            file=sys.stderr,
        )
        return 1
    chosen.results.mkdir(parents=True, exist_ok=True)
    plan = TINY if chosen.tiny else CPU if chosen.cpu else GPU
    ends = time.monotonic() + (chosen.minutes or plan.minutes) * 60
    good: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        steps = steps_of(plan, folder, device, tests=not chosen.cpu)
        if chosen.price is not None:
            kept = str(chosen.results / "load.txt")
            steps.append(Step("cost", 30, ("bench.cost", "--load", kept, "--price", str(chosen.price))))
        for step in steps:
            seconds = min(step.limit * plan.limits, ends - time.monotonic())
            if seconds < 10:
                print(f"==== {step.name}: left out, the time is up", flush=True)
            good.append(seconds >= 10 and run(step, chosen.results, seconds))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
