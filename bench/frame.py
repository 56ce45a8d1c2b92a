"""What one frame costs, by rows and context, beside the floor.

    python -m bench.frame --model DIRECTORY [--rows 1 8 16] [--contexts 256 1024] [--device cuda]

The floor is the larger of two times: reading every weight that a frame needs once (the depth decoder once per
codebook) and each row's live context, at the memory's measured speed; and the arithmetic for all rows, at the
measured speed of a large matrix product. The codec's step and a prefill of 128 positions stand beside it.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from engine import FRAME_MILLISECONDS, EngineConfig
from engine.context import Prefill
from engine.loading import load
from engine.runner import RowSettings, Runner

from .machine import matmul_rate, median_seconds, name_of, read_bandwidth


def floor_seconds(runner: Runner, rows: int, context: int, bandwidth: float, rate: float) -> float:
    model = runner.model
    passes = model.config.codebooks - 1
    weights = {part: sum(p.nbytes for p in part.parameters()) for part in (model.backbone, model.depth)}
    per_step = weights[model.backbone] + passes * (weights[model.depth] + model.heads.nbytes // passes)
    cache = runner.state.backbone
    live = 2 * cache.keys[:, 0, :, 0].nbytes * context * rows
    parameters = {part: nbytes / model.heads.element_size() for part, nbytes in weights.items()}
    operations = 2 * rows * (parameters[model.backbone] + passes * parameters[model.depth] + model.heads.numel())
    return max((per_step + live) / bandwidth, operations / rate)


def prepare(runner: Runner, rows: int, context: int) -> list[int]:
    """Rows in the middle of speaking, their contexts filled up to `context`."""
    for row in range(rows):
        runner.begin(row, RowSettings(seed=row, temperature_first=0.8, temperature=0.8, top_k=50))
        runner.start(row, context - 32)
        runner.is_prefilled(row, wait=True)
    return list(range(rows))


def measure(runner: Runner, rows: int, context: int, rounds: int) -> dict[str, Any]:
    speaking = prepare(runner, rows, context)

    def step() -> None:
        for row in speaking:  # stay where they are: the figure is for this context
            runner._positions[row] = context - 32
        runner.state.position[:rows] = context - 32
        runner.step(speaking)

    whole = median_seconds(step, runner.device, rounds)
    codes, heard = runner.state.codes, torch.ones(runner.rows, dtype=torch.bool, device=runner.device)
    with torch.inference_mode():
        codec = median_seconds(lambda: runner.codec.decode(codes, heard), runner.device, rounds)
    return {"rows": rows, "context": context, "seconds": whole, "codec_seconds": codec}


def kernels(runner: Runner) -> int:
    """How many kernels (on a CPU, operators) one frame of one row sets off, the codec's among them."""
    speaking = prepare(runner, 1, 256)
    cuda = runner.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        runner.step(speaking)
    return sum(event.count for event in profiler.key_averages())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 8, 16])
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    arguments = parser.parse_args()

    begun = time.perf_counter()
    config = EngineConfig(
        arguments.model, arguments.device, arguments.dtype, slots=max(arguments.rows), compile=arguments.compile
    )
    loaded = load(config, lambda share, what: print(f"{share:4.0%} {what}", flush=True))
    start_seconds = time.perf_counter() - begun
    runner = loaded.runner
    device, dtype = runner.device, runner.model.heads.dtype
    bandwidth, rate = read_bandwidth(device), matmul_rate(device, dtype)
    print(f"\n{name_of(device)}: reads {bandwidth / 1e9:.1f} GB/s, multiplies {rate / 1e12:.2f} TFLOP/s in {dtype}")

    contexts = [context for context in arguments.contexts if context <= runner.model.config.positions]
    table = [measure(runner, rows, context, arguments.rounds) for context in contexts for rows in arguments.rows]
    print(f"\n{'rows':>5}{'context':>9}{'ms/frame':>10}{'floor':>8}{'codec':>8}{'real-time streams':>19}")
    for line in table:
        line["floor_seconds"] = floor_seconds(runner, line["rows"], line["context"], bandwidth, rate)
        keeps_up = line["seconds"] <= FRAME_MILLISECONDS / 1000
        print(
            f"{line['rows']:5}{line['context']:9}{line['seconds'] * 1e3:10.2f}{line['floor_seconds'] * 1e3:8.2f}"
            f"{line['codec_seconds'] * 1e3:8.2f}{line['rows'] if keeps_up else '-':>19}"
        )
    prefill = Prefill(0, [[runner.model.end_of_text] * 128])
    prefill_seconds = median_seconds(lambda: runner.prefill(0, prefill, 128), device, arguments.rounds)
    count = kernels(runner)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else runner.nbytes
    print(f"\nprefill of 128 positions: {prefill_seconds * 1e3:.1f} ms; {count} kernels a frame")
    print(f"start: {start_seconds:.1f} s; memory: {memory / 2**30:.2f} GiB")
    print(
        json.dumps(
            {
                "benchmark": "frame",
                "machine": name_of(device),
                "torch": torch.__version__,
                "dtype": str(dtype),
                "compile": arguments.compile,
                "read_gb_per_second": round(bandwidth / 1e9, 1),
                "tflops": round(rate / 1e12, 2),
                "frames": [
                    {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}
                    for line in table
                ],
                "prefill_128_seconds": round(prefill_seconds, 5),
                "kernels_per_frame": count,
                "start_seconds": round(start_seconds, 2),
                "memory_bytes": memory,
            }
        )
    )


if __name__ == "__main__":
    main()
