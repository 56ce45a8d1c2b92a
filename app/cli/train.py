"""csm-serve train and csm-serve merge: fine-tune CSM on prepared clips and write a checkpoint for MODEL_PATH."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from engine import EngineError

from ..settings import DEFAULT_MODEL, ModelSettings
from ..settings_loader import SettingsError, load_model_settings
from .exit_status import CommandFailed, ExitStatus

if TYPE_CHECKING:
    from training.pipeline import PipelineConfig

_TRAIN_EPILOG = """examples:
  csm-serve prepare recordings prepared
  csm-serve train --data prepared --out run
  MODEL_PATH=run/adapter csm-serve serve

The same command resumes an interrupted run. Contents of OUT: adapter/ (with --full: model/), samples/ (speech
synthesized during training), loss.png, log.jsonl (also on stdout), tensorboard/ (tensorboard --logdir OUT), state/.
On several GPUs: torchrun --nproc-per-node 2 -m app.cli.main train …"""

_TRAIN_OPTIONS: tuple[tuple[str, type, float | None, str], ...] = (  # names of TrainSettings fields
    ("steps", int, 1000, "optimizer steps in total"),
    ("minutes", float, None, "time limit, after which the run saves its state; the same command resumes it"),
    ("warmup", int, 50, "steps of linear learning rate warm-up"),
    ("seed", int, 0, "the same seed, data and settings give the same model, on the same machine"),
    ("max_positions", int, 4096, "positions in one batch on one GPU: lower it if memory runs out"),
    ("depth_share", float, 0.0625, "share of frames that the depth decoder is trained on, up to 1"),
    ("weight_decay", float, 0.01, "for matrices"),
    ("clip", float, 1.0, "maximum gradient norm"),
    ("log_every", int, 10, "steps between log lines"),
    ("save_every", int, 200, "steps between saved states"),
    ("evaluate_every", int, 100, "steps between evaluations on held-out clips; 0: never"),
    ("sample_every", int, 200, "steps between synthesized samples; 0: never"),
)
_LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}


def add_parsers(commands: Any) -> None:
    train: argparse.ArgumentParser = commands.add_parser(
        "train",
        usage="csm-serve train --data PREPARED --out OUT [options]",
        help="fine-tune CSM on a voice or a language",
        description="Fine-tune CSM on clips that `csm-serve prepare` has encoded.",
        epilog=_TRAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--data", type=Path, required=True, metavar="PREPARED", help="folder made by csm-serve prepare")
    train.add_argument("--out", type=Path, required=True, metavar="OUT", help="output folder")
    train.add_argument(
        "--model",
        metavar="MODEL",
        help=f"the model to train: a directory or a hub id; default: MODEL_PATH, else {DEFAULT_MODEL}",
    )
    method = train.add_mutually_exclusive_group()
    method.add_argument("--lora-rank", type=int, metavar="N", help="rank of the LoRA matrices (default: 32)")
    method.add_argument("--full", action="store_true", help="train all weights instead of LoRA; needs far more memory")
    train.add_argument("--heads", action="store_true", help="with LoRA, also train the output heads in full")
    train.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help=f"default: {_LEARNING_RATES['lora']:g}, with --full {_LEARNING_RATES['full']:g}",
    )
    train.add_argument(
        "--schedule",
        choices=("cosine", "linear", "constant"),
        default="cosine",
        help="learning rate schedule (default: cosine)",
    )
    train.add_argument(
        "--step-positions",
        type=int,
        default=4096,
        metavar="N",
        help="positions (text tokens and frames of 80 ms) per optimizer step, over all GPUs (default: 4096)",
    )
    train.add_argument(
        "--held-out",
        type=float,
        default=0.05,
        metavar="PART",
        help="share of clips used for evaluation only (default: 0.05)",
    )
    train.add_argument(
        "--prompted",
        type=float,
        default=0.5,
        metavar="PART",
        help="share of clips trained with another clip of the speaker as a voice prompt (default: 0.5)",
    )
    train.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="default: auto")
    train.add_argument(
        "--checkpointing", action="store_true", help="gradient checkpointing: less memory, a third more time"
    )
    train.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    train.add_argument(
        "--sample-text", default="", metavar="TEXT", help="text of the samples; default: a held-out clip's text"
    )
    for name, number, default, description in _TRAIN_OPTIONS:
        suffix = "" if default is None else f" (default: {default:g})"
        option = f"--{name.replace('_', '-')}"
        train.add_argument(option, type=number, default=default, metavar="N", help=description + suffix)
    train.set_defaults(command=train_model)

    merge: argparse.ArgumentParser = commands.add_parser(
        "merge",
        usage="csm-serve merge [--base MODEL] --adapter ADAPTER OUT",
        help="merge an adapter into its model",
        description="Add an adapter's weights to its model and write the result to the new directory OUT. Adapters of"
        " peft that change CSM in transformers' layout are taken too.",
    )
    merge.add_argument(
        "--base",
        metavar="MODEL",
        help="the model that the adapter was trained on: a directory or a hub id; default: the one that it names",
    )
    merge.add_argument(
        "--adapter", required=True, metavar="ADAPTER", help="the directory adapter in train's OUT, or a hub id"
    )
    merge.add_argument("out", type=Path, metavar="OUT", help="directory to create")
    merge.set_defaults(command=merge_model)


def train_model(parsed: argparse.Namespace) -> None:
    """Run the training pipeline, or resume it."""
    _require("training.pipeline")
    from training.errors import TrainingError
    from training.pipeline import read_examples, run_pipeline

    settings = _settings()
    model = parsed.model or settings.model
    try:
        config = _pipeline_config(parsed, model)
    except ValueError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from None
    stop = _StopSignal()
    try:
        examples = read_examples(parsed.data, model, settings.hub_token)
        with stop:
            result = run_pipeline(config, examples, settings.hub_token, _print_log_entry, stop)
    except (TrainingError, EngineError) as error:
        raise CommandFailed(str(error)) from None
    steps = f"{result.outcome.steps} of {config.train.steps} steps done"
    if not result.outcome.finished:
        print(f"{steps}; run the same command to resume.", file=sys.stderr)
    elif result.output is not None and config.lora is None:
        print(f"{steps}. To serve it: MODEL_PATH={result.output} csm-serve serve", file=sys.stderr)
    elif result.output is not None:
        print(f"{steps}. To serve it: MODEL_PATH={result.output} csm-serve serve", file=sys.stderr)
        print(f"As a model of its own: csm-serve merge --adapter {result.output} NEW", file=sys.stderr)


def merge_model(parsed: argparse.Namespace) -> None:
    """Merge an adapter into its base checkpoint."""
    from training.errors import TrainingError
    from training.merge import merge

    settings = _settings()
    try:
        out = merge(parsed.adapter, parsed.out, parsed.base, settings.hub_token)
    except (TrainingError, EngineError) as error:
        raise CommandFailed(str(error)) from None
    print(f"Wrote {out}. To serve it: MODEL_PATH={out} csm-serve serve")


def _pipeline_config(parsed: argparse.Namespace, model: str) -> PipelineConfig:
    """Raises ValueError naming the invalid option."""
    from training.lora import LoraSettings
    from training.pipeline import PipelineConfig
    from training.settings import TrainSettings

    if parsed.full and parsed.heads:
        raise ValueError("--heads requires LoRA: --full trains the heads anyway")
    rate = _LEARNING_RATES["full" if parsed.full else "lora"] if parsed.learning_rate is None else parsed.learning_rate
    rank = 32 if parsed.lora_rank is None else parsed.lora_rank
    return PipelineConfig(
        model=model,
        out=parsed.out,
        train=TrainSettings(
            learning_rate=rate,
            schedule=parsed.schedule,
            precision=parsed.precision,
            device=parsed.device,
            **{name: getattr(parsed, name) for name, *_ in _TRAIN_OPTIONS},
        ),
        lora=None if parsed.full else LoraSettings(rank=rank, heads=parsed.heads),
        step_positions=parsed.step_positions,
        held_out=parsed.held_out,
        prompt_share=parsed.prompted,
        sample_text=parsed.sample_text,
        checkpointing=parsed.checkpointing,
    )


def _settings() -> ModelSettings:
    try:
        return load_model_settings()
    except SettingsError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from None


def _require(module: str) -> None:
    """Import a training module. Raises CommandFailed with the install command if a package is missing."""
    # peft imports bitsandbytes, which warns about missing kernels that are not used here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("training", "engine"):
            raise
        raise CommandFailed(
            f"training needs the package {error.name}, which is not installed: pip install 'csm-serve[train]'"
        ) from None


def _print_log_entry(entry: dict[str, float]) -> None:
    """Print a log entry as JSON with five significant digits."""
    print(json.dumps({name: float(f"{figure:.5g}") for name, figure in entry.items()}), flush=True)


class _StopSignal:
    """Callable that is true after SIGINT or SIGTERM; a second signal has its suffix effect."""

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._requested

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        self.__exit__()
        print("stopping after this step …", file=sys.stderr)
