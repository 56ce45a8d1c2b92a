"""Everything that needs a GPU, in one call of under ten minutes: the tests first, then the figures.

    python -m bench.gpu [--results DIRECTORY] [--tiny]

Runs tests/gpu, then bench.frame and bench.concurrency on a checkpoint of chance at CSM-1B's full size (--tiny: a
small one, to see that the script itself works; it runs on a CPU too). Each step's output is kept in DIRECTORY.
Ends with status 1 if a step failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch


def run(name: str, results: Path, *command: str) -> bool:
    """One step, its output shown and kept. True if it went well."""
    print(f"\n==== {name}: {' '.join(command)}", flush=True)
    begun = time.perf_counter()
    with (results / f"{name}.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            log.write(line)
    good = process.wait() == 0
    print(f"==== {name}: {'ok' if good else 'FAILED'} in {time.perf_counter() - begun:.0f} s", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("bench/results"))
    parser.add_argument("--tiny", action="store_true", help="a small checkpoint")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        print("PyTorch finds no CUDA device here; --tiny runs the script on the CPU", file=sys.stderr)
        return 1
    rows = ["1", "4"] if arguments.tiny else ["1", "8", "32", "64", "128", "256"]
    with tempfile.TemporaryDirectory() as folder:
        size = "tiny" if arguments.tiny else "full"
        common = ["--model", folder, "--device", device]
        good = [
            run("tests", arguments.results, "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"),
            run("checkpoint", arguments.results, "engine.random_checkpoint", folder, "--size", size),
            run("frame", arguments.results, "bench.frame", *common, "--rows", *rows),
            run("frame-plain", arguments.results, "bench.frame", *common, "--rows", *rows[:3], "--compile", "off"),
            run("concurrency", arguments.results, "bench.concurrency", *common, "--rows", *rows[:4], "--frames", "25"),
        ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
