"""Compares csm-serve with transformers: same weights, texts, machine and run.

    python -m bench.peers --model DIRECTORY [--rows 1 8] [--frames 25] [--device cuda]

DIRECTORY is any CSM checkpoint in transformers' layout. For speed, a random one of full size is sufficient:
    python -m engine.random_checkpoint DIRECTORY --size full

- transformers, one after the other: its generate method, eager. Ratios are relative to it.
- transformers, static and compiled: with a static cache and torch.compile, as its documentation recommends.
- transformers, N on streams: N concurrent requests, each in its own thread and CUDA stream, without batching, as in
  other CSM services. On a CPU, threads that share the cores.
- csm-serve, N at once: this engine, one frame step for all N.

All systems turn text into audio, codec included, in the engine's default dtype unless --dtype is given, sampling with
temperature 0.8 and top_k 50. Every request generates exactly --frames frames: the stop code is never sampled in
codebook 0. The floor is the time to read the weights once per frame at the measured memory bandwidth. The systems are
measured in turn. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from engine import FRAME_MILLISECONDS, EngineConfig, SpeechRequest, load_engine
from engine.engine_core import CsmEngine

from .machine import device_name, measure_bandwidth, timed
from .texts import SENTENCES
from .transformers_baseline import TransformersBaseline, compile_unavailable_reason

# Request n uses text n in every system. Longest first, because the first text sets the length of a static cache.
TEXTS = sorted(SENTENCES, key=len, reverse=True)


@dataclass(frozen=True)
class System:
    """A system under test. generate: generates complete audio for `requests` texts."""

    name: str
    requests: int
    generate: Callable[[], None]


def texts_for(requests: int) -> list[str]:
    return [TEXTS[n % len(TEXTS)] for n in range(requests)]


def engine_system(engine: CsmEngine, rows: int, frames: int) -> System:
    def generate() -> None:
        requests = [
            SpeechRequest(text, seed=n, max_frames=frames, ignore_stop=True) for n, text in enumerate(texts_for(rows))
        ]
        streams = [engine.stream(request) for request in requests]
        for stream in streams:
            assert len(stream.collect().codes) == frames

    return System(f"csm-serve, {rows} at once", rows, generate)


def baseline_systems(baseline: TransformersBaseline, rows: Sequence[int], compiled: bool) -> list[System]:
    systems = [System("transformers, one after the other", 1, partial(baseline.generate, TEXTS[0]))]
    if compiled:
        systems.append(
            System("transformers, static and compiled", 1, partial(baseline.generate, TEXTS[0], compiled=True))
        )
    systems += [
        System(f"transformers, {count} on streams", count, partial(baseline.generate_concurrently, texts_for(count)))
        for count in rows
        if count > 1
    ]
    return systems


def floor_seconds(engine: CsmEngine, bandwidth: float) -> float:
    """Time to read the weights of one frame: the depth decoder once per codebook after the first."""
    model = engine._runner.model
    depth = sum(parameter.nbytes for parameter in model.depth.parameters())
    backbone = sum(parameter.nbytes for parameter in model.backbone.parameters())
    return (backbone + depth * (model.config.codebooks - 1)) / bandwidth


def measure(systems: Sequence[System], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each system per round, without the warm-up. A baseline that fails is reported and skipped."""
    seconds: dict[str, list[float]] = {system.name: [] for system in systems}
    for each in range(rounds + 1):
        for system in systems:
            if system.name not in seconds:
                continue
            try:
                took = timed(system.generate, device)
            except Exception as error:  # a baseline's compiler, memory or kernels may fail; measure the rest
                if system.name.startswith("csm-serve"):
                    raise
                print(f"skipped: {system.name}: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)
                del seconds[system.name]
                continue
            if each:
                seconds[system.name].append(took)
            print(f"{f'round {each}' if each else 'warm-up'}: {system.name}: {took:.2f} s", flush=True)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint directory in transformers' layout")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="concurrent requests (default 1 8)")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[8], help="concurrent requests of transformers (default 8)"
    )
    parser.add_argument("--frames", type=int, default=25, help="frames of 80 ms per request (default 25)")
    parser.add_argument("--rounds", type=int, default=3, help="the systems take turns, so that noise affects all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument(
        "--peer-compile", default="auto", choices=("auto", "off"), help="off: skip compiled transformers"
    )
    chosen = parser.parse_args(arguments)
    if min(chosen.rows + chosen.streams) < 1 or chosen.frames < 2 or chosen.rounds < 1:
        parser.error("--rows, --streams and --rounds must be at least 1, --frames at least 2")
    frames = chosen.frames

    engine = load_engine(
        EngineConfig(
            model=chosen.model,
            device=chosen.device,
            dtype=chosen.dtype,
            slots=max(chosen.rows),
            audio_queue_slices=frames,  # so that no row waits for its reader
        )
    )
    assert isinstance(engine, CsmEngine)
    device, dtype = engine._runner.device, engine._runner.model.dtype
    bandwidth = measure_bandwidth(device)
    floor = floor_seconds(engine, bandwidth.best)
    print(f"{device_name(device)}: {bandwidth}; all in {dtype}", flush=True)
    left_out = "--peer-compile off" if chosen.peer_compile == "off" else compile_unavailable_reason(device)
    if left_out:
        print(f"skipped: transformers, static and compiled: {left_out}", flush=True)
    baseline = TransformersBaseline(chosen.model, device, dtype, frames)
    systems = baseline_systems(baseline, chosen.streams, compiled=not left_out)
    systems += [engine_system(engine, rows, frames) for rows in chosen.rows]
    seconds = measure(systems, chosen.rounds, device)
    engine.close()

    audio = frames * FRAME_MILLISECONDS / 1000
    counts = {system.name: system.requests for system in systems if system.name in seconds}
    rates = {name: count * audio / statistics.median(seconds[name]) for name, count in counts.items()}
    base = rates.get(systems[0].name, math.nan)
    print(f"\n{'':36}{'ms/frame':>10}{'floor':>8}{'audio s/s':>11}{'ratio':>8}")
    for name, rate in rates.items():
        step = statistics.median(seconds[name]) / frames * 1000
        print(f"{name:36}{step:10.2f}{floor * 1000:8.2f}{rate:11.3f}{rate / base:7.1f}x")
    print(
        json.dumps(
            {
                "benchmark": "peers",
                "model": chosen.model,
                "device": str(device),
                "dtype": str(dtype),
                "frames": frames,
                "read_gb_per_second": round(bandwidth.read / 1e9, 2),
                "copy_gb_per_second": round(bandwidth.copy / 1e9, 2),
                "floor_seconds_per_frame": round(floor, 5),
                "seconds": {name: [round(each, 4) for each in taken] for name, taken in seconds.items()},
                "audio_seconds_per_second": {name: round(rate, 4) for name, rate in rates.items()},
                "ratio": {name: None if math.isnan(base) else round(rate / base, 2) for name, rate in rates.items()},
                "left_out": [system.name for system in systems if system.name not in seconds]
                + (["transformers, static and compiled"] if left_out else []),
                "torch": torch.__version__,
                "machine": device_name(device),
            }
        )
    )


if __name__ == "__main__":
    main()
