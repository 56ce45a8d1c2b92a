"""csm-serve train and csm-serve merge: CSM learns from prepared clips, and becomes what MODEL_PATH serves."""

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

from ..settings import DEFAULT_MODEL, ModelSettings, SettingsError, load_model_settings
from .outcome import CommandFailed, Exit

if TYPE_CHECKING:
    from training.pipeline import Pipeline

_TRAIN = """examples:
  csm-serve prepare recordings prepared
  csm-serve train --data prepared --out run
  csm-serve merge --adapter run/adapter amys-csm
  MODEL_PATH=amys-csm csm-serve serve

Killed or stopped, the same command goes on where it was. OUT gets: adapter/ (with --full: model/), samples/ (what the
model says by then), loss.png, log.jsonl (also on stdout), tensorboard/ (tensorboard --logdir OUT), state/.
On several GPUs: torchrun --nproc-per-node 2 -m app.cli train …"""

_TUNING: tuple[tuple[str, type, float | None, str], ...] = (  # TrainSettings' own names
    ("steps", int, 1000, "updates of the weights, all in all"),
    ("minutes", float, None, "end cleanly after so long; the same command goes on"),
    ("warmup", int, 50, "steps in which the learning rate rises"),
    ("seed", int, 0, "the same seed, data and settings give the same model, on the same machine"),
    ("max_positions", int, 4096, "positions in one batch on one GPU: lower it where the memory is full"),
    ("depth_share", float, 0.0625, "the part of the frames that the depth decoder learns from, up to 1"),
    ("weight_decay", float, 0.01, "of matrices"),
    ("clip", float, 1.0, "the most that the gradients' norm may be"),
    ("log_every", int, 10, "steps between two lines of the log"),
    ("save_every", int, 200, "steps between two states to go on from"),
    ("evaluate_every", int, 100, "steps between two measurements on clips held out; 0: never"),
    ("sample_every", int, 200, "steps between two spoken samples; 0: never"),
)
_RATES = {"lora": 2e-4, "full": 2e-5}


def add_parsers(commands: Any) -> None:
    train: argparse.ArgumentParser = commands.add_parser(
        "train",
        usage="csm-serve train --data PREPARED --out OUT [options]",
        help="teach CSM a voice, or a language",
        description="Teach CSM with the clips that `csm-serve prepare` has encoded.",
        epilog=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--data", type=Path, required=True, metavar="PREPARED", help="what csm-serve prepare made")
    train.add_argument("--out", type=Path, required=True, metavar="OUT", help="a folder for all that comes of it")
    _add_model(train, "--model", "which model to teach")
    kind = train.add_mutually_exclusive_group()
    kind.add_argument(
        "--lora-rank", type=int, metavar="N", help="train small matrices beside the weights (default: 32)"
    )
    kind.add_argument("--full", action="store_true", help="train every weight instead; takes far more memory")
    train.add_argument("--heads", action="store_true", help="beside LoRA, train the output heads whole")
    train.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help=f"default: {_RATES['lora']:g}, with --full {_RATES['full']:g}",
    )
    train.add_argument("--schedule", choices=("cosine", "linear", "constant"), default="cosine", help="of that rate")
    train.add_argument(
        "--step-positions",
        type=int,
        default=4096,
        metavar="N",
        help="positions (text tokens and frames of 80 ms) that one step learns from, all GPUs together (default: 4096)",
    )
    train.add_argument(
        "--held-out", type=float, default=0.05, metavar="PART", help="of the clips, only measured (default: 0.05)"
    )
    train.add_argument(
        "--prompted",
        type=float,
        default=0.5,
        metavar="PART",
        help="of the clips, learnt behind another of the same speaker, as a voice prompt (default: 0.5)",
    )
    train.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="default: auto")
    train.add_argument("--checkpointing", action="store_true", help="less memory, a third more time")
    train.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    train.add_argument(
        "--sample-text", default="", metavar="TEXT", help="what the samples say; else a held-out clip's words"
    )
    for name, number, default, meaning in _TUNING:
        usual = "" if default is None else f" (default: {default:g})"
        option = f"--{name.replace('_', '-')}"
        train.add_argument(option, type=number, default=default, metavar="N", help=meaning + usual)
    train.set_defaults(command=train_model)

    merge: argparse.ArgumentParser = commands.add_parser(
        "merge",
        usage="csm-serve merge [--base MODEL] --adapter ADAPTER OUT",
        help="make of a model and an adapter what MODEL_PATH serves",
        description="Write a model with an adapter's weights added into OUT, a new directory that MODEL_PATH serves.",
    )
    _add_model(merge, "--base", "the model that the adapter was trained on")
    merge.add_argument("--adapter", type=Path, required=True, metavar="ADAPTER", help="the adapter in train's OUT")
    merge.add_argument("out", type=Path, metavar="OUT", help="the directory to make")
    merge.set_defaults(command=merge_model)


def _add_model(parser: argparse.ArgumentParser, option: str, what: str) -> None:
    parser.add_argument(
        option,
        dest="model",
        metavar="MODEL",
        help=f"{what}: a directory or a hub id; else MODEL_PATH, else {DEFAULT_MODEL}",
    )


def train_model(parsed: argparse.Namespace) -> None:
    """Run a course, or go on with one."""
    _need("training.pipeline")
    from training.errors import TrainingError
    from training.pipeline import read_examples, run_pipeline

    settings = _settings()
    model = parsed.model or settings.model
    try:
        course = _course(parsed, model)
    except ValueError as error:
        raise CommandFailed(str(error), Exit.USAGE) from None
    stop = _Stop()
    try:
        examples = read_examples(parsed.data, model, settings.hub_token)
        with stop:
            result = run_pipeline(course, examples, settings.hub_token, _tell, stop)
    except (TrainingError, EngineError) as error:
        raise CommandFailed(str(error)) from None
    steps = f"{result.outcome.steps} of {course.train.steps} steps are done"
    if not result.outcome.finished:
        print(f"{steps}; the same command goes on.", file=sys.stderr)
    elif result.made is not None and course.lora is None:
        print(f"{steps}. To hear it: MODEL_PATH={result.made} csm-serve serve", file=sys.stderr)
    elif result.made is not None:
        merge = f"csm-serve merge --base {model} --adapter {result.made} NEW"
        print(f"{steps}. To hear it: {merge} && MODEL_PATH=NEW csm-serve serve", file=sys.stderr)


def merge_model(parsed: argparse.Namespace) -> None:
    """Write what MODEL_PATH serves."""
    _need("training.merge")
    from training.errors import TrainingError
    from training.merge import merge

    settings = _settings()
    try:
        out = merge(parsed.model or settings.model, parsed.adapter, parsed.out, settings.hub_token)
    except (TrainingError, EngineError) as error:
        raise CommandFailed(str(error)) from None
    print(f"{out} is there: MODEL_PATH={out} csm-serve serve")


def _course(parsed: argparse.Namespace, model: str) -> Pipeline:
    """Raises ValueError that names what cannot be so."""
    from training.lora import LoraSettings
    from training.pipeline import Pipeline
    from training.settings import TrainSettings

    if parsed.full and parsed.heads:
        raise ValueError("--heads stands beside LoRA: --full trains the heads anyway")
    rate = _RATES["full" if parsed.full else "lora"] if parsed.learning_rate is None else parsed.learning_rate
    rank = 32 if parsed.lora_rank is None else parsed.lora_rank
    return Pipeline(
        model=model,
        out=parsed.out,
        train=TrainSettings(
            learning_rate=rate,
            schedule=parsed.schedule,
            precision=parsed.precision,
            device=parsed.device,
            **{name: getattr(parsed, name) for name, *_ in _TUNING},
        ),
        lora=None if parsed.full else LoraSettings(rank=rank, heads=parsed.heads),
        step_positions=parsed.step_positions,
        held_out=parsed.held_out,
        heard_share=parsed.prompted,
        sample_text=parsed.sample_text,
        checkpointing=parsed.checkpointing,
    )


def _settings() -> ModelSettings:
    try:
        return load_model_settings()
    except SettingsError as error:
        raise CommandFailed(str(error), Exit.USAGE) from None


def _need(module: str) -> None:
    """Import what teaching needs. Raises CommandFailed that says how to get it."""
    # peft loads bitsandbytes, which asks the user for kernels that nothing here would use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("training", "engine"):
            raise
        raise CommandFailed(
            f"teaching needs a package that serving does not, and {error.name} is not there: "
            "pip install 'csm-serve[train]'"
        ) from None


def _tell(entry: dict[str, float]) -> None:
    """A line of the log, in figures that one can read."""
    print(json.dumps({name: float(f"{figure:.5g}") for name, figure in entry.items()}), flush=True)


class _Stop:
    """Asked whether to stop: yes, once somebody interrupts or ends the process. A second time it ends at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self.__exit__()
        print("stopping behind this step …", file=sys.stderr)
