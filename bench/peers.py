"""csm-serve beside the other ways to run CSM: same weights, same texts, same machine, one run.

    python -m bench.peers --model DIRECTORY [--rows 1 8] [--frames 25] [--device cuda]

DIRECTORY is any CSM checkpoint in transformers' layout; for speed alone, one of chance at full size does:
    python -m engine.random_checkpoint DIRECTORY --size full

- transformers, one after the other: its own generate, eager. Every other figure is a ratio to this one.
- transformers, static and compiled: the same with a static cache and torch.compile, as its documentation advises.
- transformers, N on streams: N requests at once, each in a thread and on a CUDA stream of its own, nothing batched,
  which is how the forerunners serve. On a CPU, threads that share the cores.
- csm-serve, N at once: this engine, one frame step for all N.

All turn text into audio, codec included, in the dtype that the engine takes here by itself unless --dtype says another,
sampling with temperature 0.8 and top_k 50; every request speaks exactly --frames frames, since the first code that a
stop frame begins with is never sampled. The floor is what reading the weights once per frame takes at the memory's
measured bandwidth. The sides take turns. The last line is JSON.
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

# Of every side, request n says text n. The longest first: a static cache is as long as the first text needs.
TEXTS = sorted(SENTENCES, key=len, reverse=True)


@dataclass(frozen=True)
class Side:
    """One way to do it. speak: says as many texts as `requests`, whole."""

    name: str
    requests: int
    speak: Callable[[], None]


def said_by(requests: int) -> list[str]:
    return [TEXTS[n % len(TEXTS)] for n in range(requests)]


def engine_side(engine: CsmEngine, rows: int, frames: int) -> Side:
    def speak() -> None:
        requests = [
            SpeechRequest(text, seed=n, max_frames=frames, ignore_stop=True) for n, text in enumerate(said_by(rows))
        ]
        streams = [engine.stream(request) for request in requests]
        for stream in streams:
            assert len(stream.collect().codes) == frames

    return Side(f"csm-serve, {rows} at once", rows, speak)


def peer_sides(peer: TransformersBaseline, rows: Sequence[int], compiled: bool) -> list[Side]:
    sides = [Side("transformers, one after the other", 1, partial(peer.speak, TEXTS[0]))]
    if compiled:
        sides.append(Side("transformers, static and compiled", 1, partial(peer.speak, TEXTS[0], compiled=True)))
    sides += [
        Side(f"transformers, {count} on streams", count, partial(peer.generate_concurrently, said_by(count)))
        for count in rows
        if count > 1
    ]
    return sides


def floor_seconds(engine: CsmEngine, bandwidth: float) -> float:
    """A frame's weights, read once: the depth decoder's once for each codebook behind the first."""
    model = engine._runner.model
    depth = sum(parameter.nbytes for parameter in model.depth.parameters())
    backbone = sum(parameter.nbytes for parameter in model.backbone.parameters())
    return (backbone + depth * (model.config.codebooks - 1)) / bandwidth


def measure(sides: Sequence[Side], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each side in each round, those to warm up left out. A side that fails is told of and left out."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for each in range(rounds + 1):
        for side in sides:
            if side.name not in seconds:
                continue
            try:
                took = timed(side.speak, device)
            except Exception as error:  # another's compiler, memory or kernels: not a reason to measure nothing
                if side.name.startswith("csm-serve"):
                    raise
                print(f"left out: {side.name}: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)
                del seconds[side.name]
                continue
            if each:
                seconds[side.name].append(took)
            print(f"{f'round {each}' if each else 'warm-up'}: {side.name}: {took:.2f} s", flush=True)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint directory in transformers' layout")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="requests at once (default 1 8)")
    parser.add_argument("--streams", type=int, nargs="+", default=[8], help="the same for the peer (default 8)")
    parser.add_argument("--frames", type=int, default=25, help="of 80 ms, of every request (default 25)")
    parser.add_argument("--rounds", type=int, default=3, help="the sides take turns, so that noise meets all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--peer-compile", default="auto", choices=("auto", "off"), help="off: leave that side out")
    chosen = parser.parse_args(arguments)
    if min(chosen.rows + chosen.streams) < 1 or chosen.frames < 2 or chosen.rounds < 1:
        parser.error("--rows, --streams and --rounds are at least 1, --frames at least 2")
    frames = chosen.frames

    engine = load_engine(
        EngineConfig(
            model=chosen.model,
            device=chosen.device,
            dtype=chosen.dtype,
            slots=max(chosen.rows),
            audio_queue_slices=frames,  # so that no row is held until another has been read
        )
    )
    assert isinstance(engine, CsmEngine)
    device, dtype = engine._runner.device, engine._runner.model.dtype
    bandwidth = measure_bandwidth(device)
    floor = floor_seconds(engine, bandwidth.best)
    print(f"{device_name(device)}: {bandwidth}; all in {dtype}", flush=True)
    left_out = "--peer-compile off" if chosen.peer_compile == "off" else compile_unavailable_reason(device)
    if left_out:
        print(f"left out: transformers, static and compiled: {left_out}", flush=True)
    peer = TransformersBaseline(chosen.model, device, dtype, frames)
    sides = peer_sides(peer, chosen.streams, compiled=not left_out)
    sides += [engine_side(engine, rows, frames) for rows in chosen.rows]
    seconds = measure(sides, chosen.rounds, device)
    engine.close()

    audio = frames * FRAME_MILLISECONDS / 1000
    spoken = {side.name: side.requests for side in sides if side.name in seconds}
    rates = {name: count * audio / statistics.median(seconds[name]) for name, count in spoken.items()}
    base = rates.get(sides[0].name, math.nan)
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
                "left_out": [side.name for side in sides if side.name not in seconds]
                + (["transformers, static and compiled"] if left_out else []),
                "torch": torch.__version__,
                "machine": device_name(device),
            }
        )
    )


if __name__ == "__main__":
    main()
