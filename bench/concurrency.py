"""Many requests at once against transformers one after the other: same weights, same texts, one run.

    python -m bench.concurrency --model DIRECTORY [--rows 8] [--frames 25] [--device cpu]

DIRECTORY is any CSM checkpoint in transformers' layout; for speed alone, one of chance at full size does:
    python -m engine.random_checkpoint DIRECTORY --size full

Both sides turn text into audio, codec included, in the same dtype, sampling with temperature 0.8 and top_k 50;
every request speaks exactly --frames frames. The floor is what reading the weights once per frame takes at the
memory's measured speed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from engine import FRAME_MILLISECONDS, EngineConfig, SpeechRequest, load_engine
from engine.random_checkpoint import SPECIAL_TOKENS
from engine.service import CsmEngine

from .machine import name_of, read_bandwidth, timed

TEXT = "The quick brown fox jumps over the lazy dog near the bank of the river."
SECONDS_PER_FRAME = FRAME_MILLISECONDS / 1000


def transformers_speaker(model: str, device: str, dtype: torch.dtype, frames: int) -> Callable[[], None]:
    """A function that speaks the text once with transformers' own generate, audio included."""
    import tokenizers  # type: ignore[import-untyped]
    import transformers as untyped

    transformers: Any = untyped
    csm = transformers.CsmForConditionalGeneration.from_pretrained(model, dtype=dtype).to(device).eval()
    csm.codec_model.float()  # as in the engine
    tokenizer = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
    begin, end = (tokenizer.token_to_id(token) for token in SPECIAL_TOKENS[:2])
    ids = [begin, *tokenizer.encode(f"[0]{TEXT}", add_special_tokens=False).ids, end]
    prompt = torch.tensor([ids], device=device)
    never = list(range(csm.config.codec_config.codebook_size, csm.config.vocab_size))
    sampling = {"do_sample": True, "temperature": 0.8, "top_k": 50, "suppress_tokens": never}

    def speak() -> None:
        with torch.inference_mode():
            depth = {f"depth_decoder_{name}": value for name, value in sampling.items()}
            codes = csm.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=frames, **sampling, **depth
            )
            csm.codec_model.decode(codes.transpose(1, 2)).audio_values.cpu()
            assert codes.shape[1] == frames, "the model stopped early: the comparison would be of unequal work"

    return speak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint directory in transformers' layout")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3, help="the sides take turns, so that noise meets both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    arguments = parser.parse_args()
    frames, most = arguments.frames, max(arguments.rows)

    device = torch.device(arguments.device)
    bandwidth = read_bandwidth(device)
    engine = load_engine(
        EngineConfig(model=arguments.model, device=arguments.device, dtype=arguments.dtype, slots=most)
    )
    assert isinstance(engine, CsmEngine)
    depth = sum(parameter.nbytes for parameter in engine._runner.model.depth.parameters())
    backbone = sum(parameter.nbytes for parameter in engine._runner.model.backbone.parameters())
    codebooks = engine._runner.model.config.codebooks
    floor = (backbone + depth * (codebooks - 1)) / bandwidth

    def speak_at_once(rows: int) -> None:
        requests = [SpeechRequest(TEXT, seed=n, max_frames=frames, ignore_stop=True) for n in range(rows)]
        streams = [engine.stream(request) for request in requests]
        for stream in streams:
            assert len(stream.collect().codes) == frames

    peer = transformers_speaker(arguments.model, arguments.device, getattr(torch, arguments.dtype), frames)
    sides: dict[str, Callable[[], None]] = {"transformers, one after the other": peer}
    sides |= {f"csm-serve, {rows} at once": partial(speak_at_once, rows) for rows in arguments.rows}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for each in range(arguments.rounds + 1):  # the first is to warm up
        for name, side in sides.items():
            took = timed(side, device)
            if each:
                seconds[name].append(took)
            print(f"round {each}: {name}: {took:.2f} s", flush=True)
    engine.close()

    audio = frames * SECONDS_PER_FRAME
    spoken = dict(zip(sides, [1, *arguments.rows], strict=True))
    rates = {name: spoken[name] * audio / statistics.median(taken) for name, taken in seconds.items()}
    base = next(iter(rates.values()))
    print(f"\n{'':38}{'s/frame':>9}{'floor':>8}{'audio s/s':>11}{'ratio':>8}")
    for name, taken in seconds.items():
        step = statistics.median(taken) / frames
        print(f"{name:38}{step:9.3f}{floor:8.3f}{rates[name]:11.3f}{rates[name] / base:7.1f}x")
    print(
        json.dumps(
            {
                "benchmark": "concurrency",
                "model": arguments.model,
                "device": arguments.device,
                "dtype": arguments.dtype,
                "frames": frames,
                "read_gb_per_second": round(bandwidth / 1e9, 2),
                "floor_seconds_per_frame": round(floor, 4),
                "seconds": {name: [round(each, 3) for each in taken] for name, taken in seconds.items()},
                "audio_seconds_per_second": {name: round(rate, 4) for name, rate in rates.items()},
                "ratio": {name: round(rate / base, 2) for name, rate in rates.items()},
                "torch": torch.__version__,
                "machine": name_of(device),
            }
        )
    )


if __name__ == "__main__":
    main()
