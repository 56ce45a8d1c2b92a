"""Measures everything on a GPU in one process of under ten minutes, a flushed line of JSON per figure.

    python -m bench.gpu [--stage first measure profile] [--only NAME ...] [--skip NAME ...] [--seconds 570] [--slots N]

Draws a random checkpoint of CSM-1B's size on the GPU into /dev/shm and measures on it. Stages:
first: hardware limits, load, frame time by rows, fused kernels, the codec's kernels beside plain operators and moshi's
decoder, seeds, prompts, listeners of the engine, tests/gpu.
measure: the service over HTTP, attention, transformers in comparison, int8 depth weights and, with --price, the cost.
profile: kernels of a frame by kind and name.
Each section has a time limit and fails alone. A section that needs others runs them first. The first line has the
conditions: device, driver, versions, commit, command, date. The lines are kept in a file of --results; commands of
other processes keep their output beside it.
--cpu: the full size on the CPU (20 minutes, 16 GB of memory). --tiny: a small checkpoint on any device, as a rehearsal.
Exits with status 1 if a section failed or was skipped.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ..module_path import ROOT
from . import command_sections as commands
from . import engine_sections as inside
from . import fused_section
from .records import LogRecords, Recorder, conditions, file_name
from .sections import Section, run_sections, select
from .session import CPU, GPU, TINY, Session

STAGES = ("first", "measure", "profile")
# In order of importance. Tests follow the timings: the two must not share the GPU.
SECTIONS = (
    Section("limits", 20, ("first",), inside.limits),
    Section("checkpoint", 60, STAGES, inside.checkpoint),
    Section("load", 120, ("first", "profile"), inside.load_engine, ("checkpoint",)),
    Section("frames", 60, ("first",), inside.frames, ("load",)),
    Section("fused", 60, ("first",), fused_section.fused, ("load",)),
    Section("codec", 40, ("first",), inside.codec, ("load",)),
    Section("seeds", 40, ("first",), inside.seeds, ("load",)),
    Section("prompts", 30, ("first",), inside.prompts, ("load",)),
    Section("census", 40, ("profile",), inside.census, ("load",)),
    Section("listeners", 90, ("first",), inside.listeners, ("load",)),
    Section("http", 180, ("measure",), commands.http, ("checkpoint",)),
    Section("tests", 110, ("first",), commands.gpu_tests),
    Section("attention", 60, ("measure",), commands.attention, ("checkpoint",)),
    Section("peers", 150, ("measure",), commands.peers, ("checkpoint",)),
    Section("depth_weights", 150, ("measure",), commands.depth_weights, ("checkpoint",)),
    Section("cost", 30, ("measure",), commands.cost),
)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES, help="default: all of them")
    names = ", ".join(section.name for section in SECTIONS)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"in place of stages: {names}")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--seconds", type=float, help=f"in total (default {GPU.seconds}; --cpu {CPU.seconds})")
    parser.add_argument("--slots", type=int, help="of the engine, and the most rows of a frame: in place of 256")
    parser.add_argument("--results", type=Path, help="directory (default bench/results; with --tiny bench-results)")
    parser.add_argument("--price", type=float, help="of this GPU per hour, for the section cost")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--cpu", action="store_true", help="full size on the CPU")
    size.add_argument("--tiny", action="store_true", help="a small checkpoint")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda:0" if torch.cuda.is_available() and not chosen.cpu else "cpu")
    if device.type == "cpu" and not (chosen.cpu or chosen.tiny):
        print(
            "PyTorch finds no CUDA device: use --cpu to measure the CPU at full size (20 minutes, 16 GB of memory), or "
            "--tiny to check that the sections work",
            file=sys.stderr,
        )
        return 1
    try:
        sections = select(SECTIONS, chosen.stage, chosen.only, chosen.skip)
    except ValueError as error:
        parser.error(str(error))
    plan = (TINY if chosen.tiny else CPU if chosen.cpu else GPU).with_slots(chosen.slots)
    results = chosen.results or ROOT / ("bench-results" if chosen.tiny else "bench/results")
    recorder = Recorder(results / file_name(device, chosen.only or chosen.stage))
    logs = LogRecords(recorder)
    engine_log = logging.getLogger("engine")
    level = engine_log.level
    engine_log.addHandler(logs)
    engine_log.setLevel(logging.INFO)
    memory = Path("/dev/shm")
    try:
        with tempfile.TemporaryDirectory(prefix="csm-", dir=memory if memory.is_dir() else None) as folder:
            recorder.add("conditions", **conditions(device, arguments))
            session = Session(plan, device, Path(folder) / "model", recorder, chosen.price)
            good = run_sections(sections, session, recorder, chosen.seconds or plan.seconds, plan.limits)
            session.release()
    finally:
        engine_log.removeHandler(logs)
        engine_log.setLevel(level)
        recorder.close()
    print(f"kept in {recorder.path}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
