"""Runs all GPU tests and benchmarks in one call of under ten minutes.

    python -m bench.gpu [--results DIRECTORY] [--cpu | --tiny] [--price 3.50]

Runs tests/gpu, then the benchmarks on a random checkpoint of CSM-1B's full size: frame time, attention, load over HTTP,
comparison with transformers, int8 depth weights, and frame time without compilation. Each step's output is saved in
DIRECTORY. Each step has a time limit, all steps together --minutes; steps that do not fit are skipped with a message.
With --price, the price of this GPU per hour, bench.cost follows.
--cpu: the same on the CPU with few rows, for the ratios (3.5 GB of weights, 16 GB of memory, half an hour).
--tiny: a small checkpoint on any device, to check that the scripts work.
Exits with status 1 if a step failed.
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
    """One command. limit: its maximum seconds."""

    name: str
    limit: float
    command: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Sizes of the benchmarks. rows: batch sizes of bench.frame. loads: concurrent clients over HTTP."""

    size: str
    rows: tuple[int, ...]
    peer_rows: tuple[int, ...]
    streams: tuple[int, ...]
    frames: int
    loads: tuple[int, ...]
    seconds: int
    clip_seconds: int
    minutes: float
    limits: float = 1.0  # factor on the steps' limits, which are for a GPU


GPU = Plan("full", (1, 8, 32, 64, 128, 256), (1, 8, 64), (8,), 25, (1, 64, 256, 512), 12, 8, 9.5)
CPU = Plan("full", (1, 2, 8, 16), (1, 8, 16), (8,), 10, (1,), 60, 4, 40, 5.0)
TINY = Plan("tiny", (1, 4), (1, 4), (2,), 5, (1, 2), 4, 2, 9.5)


def steps_of(plan: Plan, folder: str, device: str, tests: bool) -> list[Step]:
    """The steps, most important first."""
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
    steps = [
        Step("checkpoint", 120, ("engine.random_checkpoint", folder, "--size", plan.size)),
        Step("frame", 120, ("bench.frame", *common, "--rows", *rows)),
        Step("attention", 40, ("bench.attention", *common, "--rows", *rows[::2])),
        Step("load", 210, tuple(load)),
        Step("peers", 150, tuple(peers)),
        Step("depth-weights", 150, ("bench.depth_weights", *common, "--rows", *rows[:4], "--frames", str(plan.frames))),
        Step("frame-plain", 60, ("bench.frame", *common, "--rows", *rows[:3], "--compile", "off")),
    ]
    if tests:
        steps.insert(0, Step("tests", 120, ("pytest", "-q", "-p", "no:cacheprovider", "tests/gpu")))
    return steps


def run(step: Step, results: Path, seconds: float) -> bool:
    """Run one step, printing and saving its output. True if it succeeded in time."""
    print(f"\n==== {step.name}: {' '.join(step.command)}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, "-u", "-m", *step.command]
    with (
        (results / f"{step.name}.txt").open("w", encoding="utf-8") as log,
        # In its own session, so that it can be killed with all its child processes.
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        alarms = [
            threading.Timer(seconds + grace, _kill, (process.pid, signal_number))
            for grace, signal_number in ((0, signal.SIGTERM), (20, signal.SIGKILL))
        ]
        for alarm in alarms:
            alarm.daemon = True
            alarm.start()
        try:
            for line in process.stdout:
                sys.stdout.write(line)
                log.write(line)
            succeeded = process.wait() == 0
        finally:
            for alarm in alarms:
                alarm.cancel()
            _kill(process.pid, signal.SIGKILL)
    took = time.perf_counter() - started
    late = f", over its {seconds:.0f} s" if took > seconds else ""
    print(f"==== {step.name}: {'ok' if succeeded else 'FAILED'} in {took:.0f} s{late}", flush=True)
    return succeeded


def _kill(session: int, signal_number: signal.Signals) -> None:
    try:
        os.killpg(session, signal_number)
    except ProcessLookupError:
        return


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("bench-results"))
    parser.add_argument("--price", type=float, help="of this GPU per hour; runs bench.cost")
    parser.add_argument("--minutes", type=float, help="total time (default 9.5, with --cpu 40)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cpu", action="store_true", help="full size on the CPU")
    kind.add_argument("--tiny", action="store_true", help="a small checkpoint")
    chosen = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() and not chosen.cpu else "cpu"
    if device == "cpu" and not (chosen.cpu or chosen.tiny):
        print(
            "PyTorch finds no CUDA device: use --cpu to measure the CPU at full size (half an hour, 16 GB of memory), "
            "or --tiny to check that the scripts work",
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
                print(f"==== {step.name}: skipped, the time is up", flush=True)
            good.append(seconds >= 10 and run(step, chosen.results, seconds))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
