"""Ray Serve's proxy beside the plain pool: `python -m bench.cluster_overhead`. Needs the extra `ray`.

One machine, one run: the plain service and the cluster with one replica, in turns. For each: time to the first audio of
a stream among others (ms), and audio seconds for each CPU second of all its processes. The last line is JSON, with the
cluster's share of the plain service's figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import psutil

from .load_test.server import ServerError, running_process
from .load_test.trial import Address

START_SECONDS = 120.0
BYTES_OF_A_SECOND = 48_000  # raw_pcm


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and those it started, without those that have ended."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def listen(address: Address, text: str) -> tuple[float, float]:
    """Seconds from the request to the first audio, and seconds of audio."""
    started = time.monotonic()
    first, size = None, 0
    body = {"text": text, "format": "raw_pcm", "seed": 1}
    url, headers = f"http://{address.host}:{address.port}/tts/generate", {"X-API-Key": address.key}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as response:
        response.raise_for_status()
        for each in response.iter_raw():
            first = first or time.monotonic() - started
            size += len(each)
    assert first is not None, "the answer is empty"
    return first, size / BYTES_OF_A_SECOND


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fake:frame_seconds=0.02", help="MODEL_PATH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=8, help="at the same time")
    parser.add_argument("--text", default="x" * 150, help="the fake engine speaks 80 ms for each character")
    parsed = parser.parse_args()
    settings = {
        "DEVICE": "cpu",
        "WORKERS": "1",
        "CONCURRENT_REQUESTS_PER_WORKER": str(parsed.streams),
        "TTS_NORMALIZE": "off",
    }
    commands = {"pool": ["serve"], "ray": ["cluster", "up", "--replicas", "1", "--cpu"]}
    firsts: dict[str, list[float]] = {name: [] for name in commands}
    audio, cpu = dict.fromkeys(commands, 0.0), dict.fromkeys(commands, 0.0)
    with ExitStack() as held:
        running = {
            name: held.enter_context(running_process(command, parsed.model, settings, START_SECONDS))
            for name, command in commands.items()
        }
        for address, _ in running.values():
            listen(address, "Warm up.")
        with ThreadPoolExecutor(parsed.streams) as crowd:
            for number in range(parsed.rounds):
                for name in sorted(running, reverse=bool(number % 2)):
                    address, process = running[name]
                    before = cpu_seconds(process)
                    heard = [*crowd.map(lambda _, address=address: listen(address, parsed.text), range(parsed.streams))]
                    cpu[name] += cpu_seconds(process) - before
                    firsts[name] += [first for first, _ in heard]
                    audio[name] += sum(seconds for _, seconds in heard)
    results = {
        name: {
            "first_audio_p50_ms": round(statistics.median(firsts[name]) * 1000, 1),
            "first_audio_max_ms": round(max(firsts[name]) * 1000, 1),
            "audio_seconds_per_cpu_second": round(audio[name] / cpu[name], 2),
        }
        for name in commands
    }
    for name, result in results.items():
        print(f"{name:5} {result}")
    ratios = {each: round(results["ray"][each] / results["pool"][each], 2) for each in results["ray"]}
    print(
        json.dumps(
            {"model": parsed.model, "streams": parsed.streams, "rounds": parsed.rounds, **results, "ratio": ratios}
        )
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as error:
        sys.exit(str(error))
