"""Attention time per frame of the backbone: ragged over filled positions, and masked over the context bucket.

    python -m bench.attention --model DIRECTORY [--rows 1 32 256] [--live 600] [--longest 600 1500] [--device cuda]

Measures all layers of one frame step on a random cache; only the checkpoint's config.json is read. --live: filled
positions of every row but one, which has --longest. The floor is the time to read the filled positions once. On a GPU
both run as CUDA graphs, as in the service, so launch overhead does not count. Without a GPU only masked attention is
measured. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.cuda_streams import StreamPriority
from engine.loading import _device, _dtype
from engine.model.config import TransformerConfig, read_config
from engine.model.graphs import CudaGraphCapturer, graph_buckets
from engine.model.kv_cache import DecodeView, KvCache, RaggedAttention
from engine.model.ragged_attention import verified_ragged_attention
from engine.model_runner import MIN_ROWS

from .machine import device_name, measure_bandwidth, median_seconds


def attention_of_frame(
    cache: KvCache, groups: int, lengths: Sequence[int], context: int, ragged: RaggedAttention | None
) -> Callable[[], None]:
    """The backbone's attention of one frame step, without its projections."""
    layers, rows, kv_heads, _, head_dim = cache.keys.shape
    device, dtype = cache.keys.device, cache.keys.dtype
    q = torch.randn(rows, kv_heads, groups, head_dim, device=device, dtype=dtype)
    positions = torch.tensor(lengths, device=device) - 1

    def work() -> None:
        view = DecodeView(cache, positions, context, ragged)
        for layer in range(layers):
            view.attend(q, cache.keys[layer, :, :, :context], cache.values[layer, :, :, :context])

    if device.type == "cuda":
        return CudaGraphCapturer(device, StreamPriority.FRAMES).capture(work)
    return work


def measure(
    config: TransformerConfig,
    cache: KvCache,
    lengths: Sequence[int],
    context: int,
    ragged: RaggedAttention | None,
    rounds: int,
) -> dict[str, Any]:
    """Seconds of masked and ragged attention (None if unavailable), and the bytes of bucket and filled positions."""
    groups, device = config.heads // config.kv_heads, cache.keys.device

    def seconds(kernel: RaggedAttention | None) -> float:
        return median_seconds(attention_of_frame(cache, groups, lengths, context, kernel), device, rounds)

    position = 2 * cache.keys[:, 0, :, 0].nbytes
    return {
        "rows": len(lengths),
        "live": lengths[0],
        "longest": lengths[-1],
        "bucket": context,
        "bucket_bytes": len(lengths) * context * position,
        "live_bytes": sum(lengths) * position,
        "masked_seconds": seconds(None),
        "live_seconds": None if ragged is None else seconds(ragged),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--live", type=int, default=600)
    parser.add_argument("--longest", type=int, nargs="+", default=[600, 1500])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    chosen = parser.parse_args(arguments)

    csm, device = read_config(chosen.model / "config.json"), _device(chosen.device)
    config, dtype = csm.backbone, _dtype(chosen.dtype, device)
    ragged, bandwidth = verified_ragged_attention(config, device, dtype), measure_bandwidth(device)
    buckets = graph_buckets(MIN_ROWS, max(*chosen.rows, MIN_ROWS + 1), csm.positions, live=False)
    table = []
    print(f"{device_name(device)}: {bandwidth}, {dtype}, {config.layers} layers\n")
    heads = ("rows", "live", "longest", "bucket", "masked ms", "live ms", "floor ms")
    print("".join(f"{head:>{len(head) + 2}}" for head in heads))
    with torch.inference_mode():
        for rows in chosen.rows:
            cache = KvCache(config, rows, csm.positions, device, dtype)
            cache.keys.normal_()
            cache.values.normal_()
            for longest in sorted({min(each, csm.positions) for each in chosen.longest}):
                lengths = [min(chosen.live, longest)] * (rows - 1) + [longest]
                context = buckets.bucket_for(1, longest).context
                line = measure(config, cache, lengths, context, ragged, chosen.rounds)
                line["floor_seconds"] = line["live_bytes"] / bandwidth.best
                table.append(line)
                keys = ("masked_seconds", "live_seconds", "floor_seconds")
                times = ["-" if line[key] is None else f"{line[key] * 1e3:.3f}" for key in keys]
                cells = [*(str(line[key]) for key in heads[:4]), *times]
                print("".join(f"{cell:>{len(head) + 2}}" for head, cell in zip(heads, cells, strict=True)), flush=True)
            del cache  # free it before allocating the next
    print(
        json.dumps(
            {
                "benchmark": "attention",
                "machine": device_name(device),
                "torch": torch.__version__,
                "dtype": str(dtype),
                "gb_per_second": round(bandwidth.best / 1e9, 1),
                "layers": config.layers,
                "attention": table,
            }
        )
    )


if __name__ == "__main__":
    main()
