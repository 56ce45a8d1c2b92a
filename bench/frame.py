"""Frame time by rows and context, compared with its floor.

    python -m bench.frame --model DIRECTORY [--rows 1 8 16] [--contexts 256 1024] [--device cuda]

The floor is the larger of two times: reading the weights of a frame (the depth decoder once per codebook) and each
row's filled context at the measured memory bandwidth (the better of sum and copy); and the arithmetic of all rows at
the measured rate of a large matrix product. Also measured: the model's step and the codec's alone, the time per frame
when frames overlap with the codec of the previous one, as in the engine on a GPU, and a prefill of 128 positions. The
startup phases and memory by use follow. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from engine import FRAME_MILLISECONDS, EngineConfig
from engine.context import Prefill
from engine.frame_pipeline import CAPTURED_MODE
from engine.loading import load
from engine.model.csm import CsmModel
from engine.model.graphs import Bucket
from engine.model_runner import ModelRunner, SamplingParams
from engine.prompt_packing import PromptPiece

from .machine import device_name, matmul_rate, measure_bandwidth, median_seconds, timed


def weights_per_frame(model: CsmModel) -> tuple[int, int]:
    """Weights of one frame: bytes read, and number of weights that each row is multiplied with."""
    parts = ((model.backbone, 1), (model.depth, model.config.codebooks - 1), (model.heads, 1))
    read = [(parameter, times) for part, times in parts for parameter in part.parameters()]
    return sum(each.nbytes * times for each, times in read), sum(each.numel() * times for each, times in read)


def floor_seconds(runner: ModelRunner, rows: int, context: int, bandwidth: float, rate: float) -> float:
    nbytes, numbers = weights_per_frame(runner.model)
    live = 2 * runner.state.backbone.keys[:, 0, :, 0].nbytes * context * rows
    return max((nbytes + live) / bandwidth, 2 * rows * numbers / rate)


def prepare(runner: ModelRunner, rows: int, context: int) -> list[int]:
    """Set up active rows whose contexts are filled up to about `context`."""
    for row in range(rows):
        runner.reset_row(row, SamplingParams(seed=row, temperature_first=0.8, temperature=0.8, top_k=50))
    rewind(runner, rows, context)
    return list(range(rows))


def rewind(runner: ModelRunner, rows: int, context: int) -> None:
    """Reset the rows' positions, so that every round measures the same context."""
    for row in range(rows):
        runner.start_row(row, context - 32)
    runner.apply_changes()


_OVERLAPPED_FRAMES = 8  # consecutive frames; fits into the space that `rewind` leaves


def measure(runner: ModelRunner, rows: int, context: int, rounds: int) -> dict[str, Any]:
    active, device = prepare(runner, rows, context), runner.device
    frames, bucket = runner.frames, runner.frames.buckets.bucket_for(rows, context)

    def whole() -> None:
        runner.step(active)

    def overlapped() -> None:
        previous = runner.launch(active)
        for _ in range(_OVERLAPPED_FRAMES - 1):
            assert len(previous.codes)  # waits, as the engine does to know which rows stopped before the next frame
            frame = runner.launch(active)
            assert len(previous.samples)
            previous = frame
        assert len(previous.samples)

    def seconds(work: Callable[[], None], frames: int = 1) -> float:
        def once() -> float:
            rewind(runner, rows, context)
            return timed(work, device)

        once()
        return statistics.median(once() for _ in range(rounds)) / frames

    with torch.inference_mode():
        return {
            "rows": rows,
            "context": context,
            "graph": bucket in frames.step_graphs,
            "seconds": seconds(whole),
            "overlapped_seconds": seconds(overlapped, _OVERLAPPED_FRAMES),
            "step_seconds": seconds(lambda: frames._step(bucket, CAPTURED_MODE)),
            "codec_seconds": seconds(
                lambda: None if frames.codec_graphs.replay(Bucket(bucket.rows)) else frames._decode(Bucket(bucket.rows))
            ),
        }


def kernels_per_frame(runner: ModelRunner) -> int:
    """Number of kernels (operators on a CPU) that one frame launches, codec included."""
    active = prepare(runner, 1, 256)
    cuda = runner.device.type == "cuda"
    activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    with profile(activities=activities, acc_events=True) as profiler:  # without it torch 2.10 warns about one cycle
        runner.step(active)
    there = DeviceType.CUDA if cuda else DeviceType.CPU  # not the host calls that launch them
    return sum(event.count for event in profiler.key_averages() if event.device_type == there)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 8, 16])
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--depth-weights", default="auto", choices=("auto", "int8"))
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    chosen = parser.parse_args(arguments)

    begun = time.perf_counter()
    config = EngineConfig(
        chosen.model,
        chosen.device,
        chosen.dtype,
        chosen.depth_weights,
        slots=max(chosen.rows),
        compile=chosen.compile,
    )
    loaded = load(config, lambda share, what: print(f"{share:4.0%} {what}", flush=True))
    start_seconds = time.perf_counter() - begun
    runner = loaded.runner
    device, dtype = runner.device, runner.model.dtype
    bandwidth, rate = measure_bandwidth(device), matmul_rate(device, dtype)
    print(f"\n{device_name(device)}: {bandwidth}, multiplies {rate / 1e12:.2f} TFLOP/s in {dtype}")

    contexts = [context for context in chosen.contexts if context <= runner.model.config.positions]
    table = [measure(runner, rows, context, chosen.rounds) for context in contexts for rows in chosen.rows]
    heads = ("rows", "context", "graph", "ms/frame", "overlapped", "floor", "model", "codec", "real-time streams")
    print("\n" + "".join(f"{head:>{len(head) + 2}}" for head in heads))
    for line in table:
        line["floor_seconds"] = floor_seconds(runner, line["rows"], line["context"], bandwidth.best, rate)
        keeps_up = line["overlapped_seconds"] <= FRAME_MILLISECONDS / 1000
        times = (line[key] * 1e3 for key in ("overlapped_seconds", "floor_seconds", "step_seconds", "codec_seconds"))
        cells = (
            str(line["rows"]),
            str(line["context"]),
            "yes" if line["graph"] else "no",
            f"{line['seconds'] * 1e3:.2f}",
            *(f"{each:.2f}" for each in times),
            str(line["rows"]) if keeps_up else "-",
        )
        print("".join(f"{cell:>{len(head) + 2}}" for head, cell in zip(heads, cells, strict=True)))
    prompt = PromptPiece(0, Prefill(0, [[runner.model.end_of_text] * 128]))
    prefill_seconds = median_seconds(lambda: runner.prefill([prompt]), device, chosen.rounds)
    count = kernels_per_frame(runner)
    by_use = loaded.detail["memory"]  # at startup: the engine allocates nothing later
    assert isinstance(by_use, dict)
    memory = sum(by_use.values())
    what = "kernels" if device.type == "cuda" else "operators"
    print(f"\nprefill of 128 positions: {prefill_seconds * 1e3:.1f} ms; {count} {what} per frame")
    print(f"attention reads {loaded.detail['attention']}")
    print(
        f"startup: {start_seconds:.1f} s, of which {loaded.detail['start_seconds']}; {loaded.detail['graphs']} graphs"
    )
    parts = ", ".join(f"{part} {nbytes / 2**20:.1f}" for part, nbytes in by_use.items())
    print(f"memory: {memory / 2**20:.1f} MiB, of which {parts}")
    print(
        json.dumps(
            {
                "benchmark": "frame",
                "machine": device_name(device),
                "torch": torch.__version__,
                "dtype": str(dtype),
                "depth_weights": loaded.detail["depth_weights"],
                "compile": chosen.compile,
                "attention": loaded.detail["attention"],
                "read_gb_per_second": round(bandwidth.read / 1e9, 1),
                "copy_gb_per_second": round(bandwidth.copy / 1e9, 1),
                "tflops": round(rate / 1e12, 2),
                "frames": [
                    {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}
                    for line in table
                ],
                "prefill_128_seconds": round(prefill_seconds, 5),
                "kernels_per_frame": count,
                "start_seconds": round(start_seconds, 2),
                "start_phases": loaded.detail["start_seconds"],
                "graphs": loaded.detail["graphs"],
                "memory_bytes": memory,
                "memory_by_use": by_use,
            }
        )
    )


if __name__ == "__main__":
    main()
