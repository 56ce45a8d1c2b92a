"""What 8-bit depth weights win, and what they change.

    python -m bench.depth_weights --model DIRECTORY [--rows 1 8 16] [--speakers 4] [--frames 16] [--device cuda]

Loads the checkpoint twice, as it is and with depth weights of 8 bits, and times the model's step of both in turn. Then
the first speaks, and both depth decoders are given what its backbone says, so that they differ in their weights alone:

- same next: how often the likeliest code is the same, all codes of the frame before it being the same;
- same alone: how often it is the same where each goes on from the codes that it chose itself, within a frame;
- KL: nats between what they make of the next code, KL(as it is || 8 bits), the codes before being the same.

Weights of chance make no speech, and what is likely by chance is easily overtaken: a real checkpoint may well differ,
and decides. Memory: twice the checkpoint's. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine import EngineConfig
from engine.context import Prefill
from engine.frame_pipeline import CAPTURED_MODE
from engine.loading import Loaded, load
from engine.model.csm import CsmModel
from engine.model.kv_cache import DepthView, KvCache
from engine.model.sampling import SamplingMode
from engine.model_runner import ModelRunner, SamplingParams

from .frame import prepare, rewind, weights_per_frame
from .machine import device_name, timed
from .texts import SENTENCES

CONTEXT = 256  # of a row whose step is timed
_GREEDY = SamplingMode(top_k=1, sampled=False, guided=False)


@dataclass(frozen=True)
class Spoken:
    hidden: Tensor  # (frames, rows, 1, hidden): what the backbone gave the depth decoder
    codes: Tensor  # (frames, rows, codebooks)


@dataclass(frozen=True)
class Agreement:
    """Each (codebooks - 1,): the first codebook is the backbone's, and the same."""

    same_next: Tensor
    same_alone: Tensor
    kl: Tensor


def step_seconds(runners: Sequence[ModelRunner], rows: int, rounds: int) -> list[float]:
    """The median of the model's step for each, measured in turn: what disturbs one disturbs the others."""
    bucket = runners[0].frames.buckets.bucket_for(rows, CONTEXT)
    for runner in runners:
        prepare(runner, rows, CONTEXT)
        runner.step(list(range(rows)))
    took: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for runner, seconds in zip(runners, took, strict=True):
            rewind(runner, rows, CONTEXT)
            with torch.inference_mode():
                seconds.append(timed(lambda runner=runner: runner.frames._step(bucket, CAPTURED_MODE), runner.device))  # type: ignore[misc]
    return [statistics.median(seconds) for seconds in took]


def speak(loaded: Loaded, rows: int, count: int) -> Spoken:
    """So many frames of so many rows, each with a text of its own, drawn as a service draws them."""
    runner = loaded.runner
    frames, state = runner.frames, runner.state
    prompts = [loaded.tokenizer.encode(SENTENCES[row % len(SENTENCES)], 0)[:-1] for row in range(rows)]
    for row, tokens in enumerate(prompts):
        runner.reset_row(row, SamplingParams(seed=row, temperature_first=0.8, temperature=0.8, top_k=50))
        runner.prefill(row, Prefill(0, [tokens]), len(tokens))
        runner.start_row(row, len(tokens))
        runner.is_prefilled(row, wait=True)
    bucket = frames.buckets.bucket_for(rows, max(map(len, prompts)) + count)
    hidden: list[Tensor] = []
    codes: list[Tensor] = []
    hook = runner.model.depth_projection.register_forward_pre_hook(
        lambda module, given: hidden.append(given[0][:rows].clone())
    )
    with torch.inference_mode(), frames.model_stream.as_current():
        frames._set_active_rows(list(range(rows)))
        for _ in range(count):
            frames._eager_step(bucket)
            codes.append(state.codes[:rows].clone())
        frames._set_active_rows([])
        frames.model_stream.record_event().wait()
    hook.remove()
    return Spoken(torch.stack(hidden), torch.stack(codes))


def depth_logits(model: CsmModel, hidden: Tensor, codes: Tensor) -> Tensor:
    """hidden (rows, 1, hidden), codes (rows, codebooks) -> float32 (codebooks - 1, rows, vocab).

    What the depth decoder makes of each codebook after the first, given the codes before it: all in one pass.
    """
    config, rows = model.config, len(codes)
    cache = KvCache(config.depth, rows, config.codebooks, model.device, model.dtype)
    inputs = [model._depth_input(codebook, codes[:, codebook]) for codebook in range(config.codebooks - 1)]
    view = DepthView(cache, rows, 0, config.codebooks, model.depth.groups)
    y = model.depth(torch.cat((model.depth_projection(hidden), *inputs), dim=1), slice(0, config.codebooks), view)
    return torch.stack([head(y[:, position]) for position, head in enumerate(model.heads, start=1)]).float()


def compare(exact: ModelRunner, rounded: ModelRunner, spoken: Spoken) -> Agreement:
    same_next, same_alone, kl = [], [], []
    with torch.inference_mode():
        for hidden, codes in zip(spoken.hidden, spoken.codes, strict=True):
            expected, found = (depth_logits(runner.model, hidden, codes) for runner in (exact, rounded))
            same_next.append(expected.argmax(-1) == found.argmax(-1))
            log_p, log_q = expected.log_softmax(-1), found.log_softmax(-1)
            kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
            one, other = (runner.model._codes(hidden, runner.state, len(codes), _GREEDY) for runner in (exact, rounded))
            same_alone.append((one == other)[:, 1:].t())
    return Agreement(*(torch.cat(each, 1).float().mean(1).cpu() for each in (same_next, same_alone, kl)))


def show(agreement: Agreement) -> None:
    print(f"\n{'codebook':>10}{'same next':>12}{'same alone':>12}{'KL, nats':>12}")
    lines = torch.stack((agreement.same_next, agreement.same_alone, agreement.kl), dim=1).tolist()
    for codebook, (same_next, same_alone, kl) in enumerate(lines, start=1):
        print(f"{codebook:>10}{same_next:>12.1%}{same_alone:>12.1%}{kl:>12.2g}")
    same_next, same_alone, kl = (each.mean() for each in (agreement.same_next, agreement.same_alone, agreement.kl))
    print(f"{'all':>10}{same_next:>12.1%}{same_alone:>12.1%}{kl:>12.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16], help="of the steps that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--speakers", type=int, default=4, help="who speaks at once, of whom codes are compared")
    parser.add_argument("--frames", type=int, default=16, help="of each speaker")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    arguments = parser.parse_args()

    def loaded_with(depth_weights: Literal["auto", "int8"]) -> Loaded:
        slots = max(*arguments.rows, arguments.speakers)
        config = EngineConfig(
            arguments.model,
            arguments.device,
            arguments.dtype,
            depth_weights,
            slots=slots,
            compile=arguments.compile,
        )
        return load(config, lambda share, what: print(f"{depth_weights}: {share:4.0%} {what}", flush=True))

    exact, rounded = loaded_with("auto"), loaded_with("int8")
    runners = (exact.runner, rounded.runner)
    kinds = [str(each.detail["depth_weights"]) for each in (exact, rounded)]
    nbytes = [weights_per_frame(runner.model)[0] for runner in runners]
    machine = device_name(runners[0].device)
    print(
        f"\n{machine}: " + ", ".join(f"{kind} {n / 1e6:.1f} MB" for kind, n in zip(kinds, nbytes, strict=True)), end=""
    )
    print(f" of weights to read a frame\n{'rows':>6}" + "".join(f"{kind + ' ms':>14}" for kind in kinds) + "   ratio")
    steps = []
    for rows in arguments.rows:
        one, other = step_seconds(runners, rows, arguments.rounds)
        steps.append({"rows": rows, "seconds": round(one, 6), "int8_seconds": round(other, 6)})
        print(f"{rows:>6}{one * 1e3:>14.2f}{other * 1e3:>14.2f}{other / one:>8.2f}", flush=True)
    agreement = compare(*runners, speak(exact, arguments.speakers, arguments.frames))
    show(agreement)
    print(
        json.dumps(
            {
                "benchmark": "depth_weights",
                "machine": machine,
                "torch": torch.__version__,
                "model": arguments.model,
                "weights": kinds,
                "bytes_of_frame": nbytes,
                "steps": steps,
                "frames": arguments.speakers * arguments.frames,
                "same_next": [round(value, 4) for value in agreement.same_next.tolist()],
                "same_alone": [round(value, 4) for value in agreement.same_alone.tolist()],
                "kl_nats": [float(f"{value:.3g}") for value in agreement.kl.tolist()],
            }
        )
    )


if __name__ == "__main__":
    main()
