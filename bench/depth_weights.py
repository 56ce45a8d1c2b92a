"""Speed and accuracy of int8 depth weights.

    python -m bench.depth_weights --model DIRECTORY [--rows 1 8 16] [--speakers 4] [--frames 16] [--device cuda]

Loads the checkpoint twice, unchanged and with int8 depth weights, and times the model's step of both in turn. Then the
first generates frames, and both depth decoders get the same backbone hidden states, so they differ only in weights:

- same next: share of equal argmax codes, given the same previous codes of the frame;
- same alone: share of equal argmax codes when each decoder continues from its own codes within a frame;
- KL: KL(unchanged || int8) of the next code's distribution in nats, given the same previous codes.

Random weights have flat distributions whose argmax changes easily, so results of a real checkpoint may differ and are
decisive. Needs twice the checkpoint's memory. The last line is JSON.
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
from engine.prompt_packing import PromptPiece

from .frame import prepare, rewind, weights_per_frame
from .machine import device_name, timed
from .texts import SENTENCES

CONTEXT = 256  # context of the timed steps
_GREEDY = SamplingMode(top_k=1, sampled=False, guided=False)


@dataclass(frozen=True)
class Generated:
    hidden: Tensor  # (frames, rows, 1, hidden): backbone hidden states, input of the depth decoder
    codes: Tensor  # (frames, rows, codebooks)


@dataclass(frozen=True)
class Agreement:
    """Each (codebooks - 1,): codebook 0 comes from the backbone and is always equal."""

    same_next: Tensor
    same_alone: Tensor
    kl: Tensor


def step_seconds(runners: Sequence[ModelRunner], rows: int, rounds: int) -> list[float]:
    """Median step time of each model, measured in turn, so that noise affects all."""
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


def generate(loaded: Loaded, rows: int, count: int) -> Generated:
    """Generate `count` frames of `rows` rows, each with its own text, with the service's sampling settings."""
    runner = loaded.runner
    frames, state = runner.frames, runner.state
    prompts = [loaded.tokenizer.encode(SENTENCES[row % len(SENTENCES)], 0)[:-1] for row in range(rows)]
    for row, tokens in enumerate(prompts):
        runner.reset_row(row, SamplingParams(seed=row, temperature_first=0.8, temperature=0.8, top_k=50))
        runner.prefill([PromptPiece(row, Prefill(0, [tokens]))])
        runner.start_row(row, len(tokens))
    runner.apply_changes()
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
    return Generated(torch.stack(hidden), torch.stack(codes))


def depth_logits(model: CsmModel, hidden: Tensor, codes: Tensor) -> Tensor:
    """hidden (rows, 1, hidden), codes (rows, codebooks) -> float32 (codebooks - 1, rows, vocab).

    Logits of the depth decoder for each codebook after the first, given the codes before it, in one pass.
    """
    config, rows = model.config, len(codes)
    cache = KvCache(config.depth, rows, config.codebooks, model.device, model.dtype)
    inputs = [model._depth_input(codebook, codes[:, codebook]) for codebook in range(config.codebooks - 1)]
    view = DepthView(cache, rows, 0, config.codebooks, model.depth.groups)
    y = model.depth(torch.cat((model.depth_projection(hidden), *inputs), dim=1), slice(0, config.codebooks), view)
    return torch.stack([head(y[:, position]) for position, head in enumerate(model.heads, start=1)]).float()


def compare(exact: ModelRunner, quantized: ModelRunner, generated: Generated) -> Agreement:
    same_next, same_alone, kl = [], [], []
    with torch.inference_mode():
        for hidden, codes in zip(generated.hidden, generated.codes, strict=True):
            expected, actual = (depth_logits(runner.model, hidden, codes) for runner in (exact, quantized))
            same_next.append(expected.argmax(-1) == actual.argmax(-1))
            log_p, log_q = expected.log_softmax(-1), actual.log_softmax(-1)
            kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
            one, other = (
                runner.model._codes(hidden, runner.state, len(codes), _GREEDY) for runner in (exact, quantized)
            )
            same_alone.append((one == other)[:, 1:].t())
    return Agreement(*(torch.cat(each, 1).float().mean(1).cpu() for each in (same_next, same_alone, kl)))


def print_agreement(agreement: Agreement) -> None:
    print(f"\n{'codebook':>10}{'same next':>12}{'same alone':>12}{'KL, nats':>12}")
    lines = torch.stack((agreement.same_next, agreement.same_alone, agreement.kl), dim=1).tolist()
    for codebook, (same_next, same_alone, kl) in enumerate(lines, start=1):
        print(f"{codebook:>10}{same_next:>12.1%}{same_alone:>12.1%}{kl:>12.2g}")
    same_next, same_alone, kl = (each.mean() for each in (agreement.same_next, agreement.same_alone, agreement.kl))
    print(f"{'all':>10}{same_next:>12.1%}{same_alone:>12.1%}{kl:>12.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16], help="batch sizes of the timed steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--speakers", type=int, default=4, help="rows whose codes are compared")
    parser.add_argument("--frames", type=int, default=16, help="frames per row")
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

    exact, quantized = loaded_with("auto"), loaded_with("int8")
    runners = (exact.runner, quantized.runner)
    kinds = [str(each.detail["depth_weights"]) for each in (exact, quantized)]
    nbytes = [weights_per_frame(runner.model)[0] for runner in runners]
    machine = device_name(runners[0].device)
    print(
        f"\n{machine}: " + ", ".join(f"{kind} {n / 1e6:.1f} MB" for kind, n in zip(kinds, nbytes, strict=True)), end=""
    )
    print(f" of weights read per frame\n{'rows':>6}" + "".join(f"{kind + ' ms':>14}" for kind in kinds) + "   ratio")
    steps = []
    for rows in arguments.rows:
        one, other = step_seconds(runners, rows, arguments.rounds)
        steps.append({"rows": rows, "seconds": round(one, 6), "int8_seconds": round(other, 6)})
        print(f"{rows:>6}{one * 1e3:>14.2f}{other * 1e3:>14.2f}{other / one:>8.2f}", flush=True)
    agreement = compare(*runners, generate(exact, arguments.speakers, arguments.frames))
    print_agreement(agreement)
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
