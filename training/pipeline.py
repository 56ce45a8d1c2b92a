"""A course: everything from prepared clips and a checkpoint to an adapter, or to a model that is another throughout."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel

from engine import EngineConfig, load_encoder

from .base_model import BaseModel, enable_checkpointing, load_base
from .codes import read_codec, read_codes
from .devices import uses_bfloat16
from .errors import CodesError, TrainingError
from .evaluation import measure
from .example import Example
from .export import export_model
from .lora import LoraSettings, add_lora, merged_tensors, write_adapter
from .report import TensorBoard, draw_losses
from .sampler import ClipSampler
from .samples import Samples
from .sequence import Sequence
from .settings import TrainSettings
from .trainer import Hooks, Outcome, train


@dataclass(frozen=True)
class Pipeline:
    """What `csm-serve train` was asked for.

    model: a directory or a hub id. out: holds all that comes of it. lora: None trains everything.
    step_positions: places in one step, all processes together. held_out: the part of the clips that is only
    measured. heard_share: the part of the clips that is learnt behind another, as a voice prompt.
    sample_text: what every sample says; empty takes the first held-out clip's words, or the first clip's.
    checkpointing: keep fewer activations and compute them twice.
    """

    model: str
    out: Path
    train: TrainSettings
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    step_positions: int = 4096
    held_out: float = 0.05
    heard_share: float = 0.5
    sample_text: str = ""
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("held_out", "heard_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but is a part: from 0 to 1")
        if self.step_positions < 1:
            raise ValueError(f"step_positions is {self.step_positions}, but must be at least 1")


@dataclass(frozen=True)
class Result:
    """made: the adapter's directory, or the model's; None if the run has not come to its end."""

    outcome: Outcome
    made: Path | None


def read_examples(data: Path, model: str, token: str | None = None) -> list[Example]:
    """The clips of a folder that `csm-serve prepare` made, if the model's codec made their codes.

    Raises CodesError, and the engine's CheckpointNotFound and CheckpointError.
    """
    examples = read_codes(data)
    if read_codec(data) != load_encoder(EngineConfig(model, device="cpu", hub_token=token)).fingerprint:
        raise CodesError(
            f"{data}: its codes are of another codec than {model} has; prepare the recordings anew: "
            f"csm-serve prepare RECORDINGS OUT --model {model}"
        )
    return examples


def run_pipeline(
    course: Pipeline,
    examples: list[Example],
    token: str | None = None,
    logged: Callable[[dict[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Result:
    """Run a course to its end, or until it is stopped; call it again and it goes on.

    Raises TrainingError's kinds, and the engine's CheckpointNotFound and CheckpointError.
    """
    if not examples:
        raise TrainingError("there are no clips to learn from: prepare some recordings first")
    base = load_base(course.model, token, _dtype(course))
    adapted = None if course.lora is None else add_lora(base, course.lora, course.train.seed)
    if course.checkpointing:
        enable_checkpointing(base.model)
    learnt, kept = _held_out(examples, course)
    base.layout.check(kept)
    clips = ClipSampler(learnt, base.layout, course.step_positions, course.train.seed, course.heard_share)
    course.out.mkdir(parents=True, exist_ok=True)
    board = TensorBoard(course.out / "tensorboard")

    def tell(entry: dict[str, float]) -> None:
        board(entry)
        if logged is not None:
            logged(entry)

    settings = course.train if kept else replace(course.train, evaluate_every=0)
    hooks = Hooks(
        logged=tell,
        evaluate=lambda model: measure(
            model,
            base.layout,
            [Sequence((example,)) for example in kept],
            settings.max_positions,
            uses_bfloat16(settings),
        ),
        sample=_samples(course, base, learnt, kept),
        stop=stop,
    )
    try:
        outcome = train(base.model, base.layout, clips, settings, course.out, hooks, _what(course, base, learnt))
    finally:
        board.close()
    made = None
    if PartialState().is_main_process:
        draw_losses(course.out / "log.jsonl", course.out / "loss.png")
        made = _write(course, base, adapted) if outcome.finished else None
    PartialState().destroy_process_group()  # of several processes; there is none of one
    return Result(outcome, made)


def _dtype(course: Pipeline) -> torch.dtype:
    """What is not trained may be as coarse as it is computed with; what is trained may not."""
    return torch.bfloat16 if course.lora is not None and uses_bfloat16(course.train) else torch.float32


def _held_out(examples: list[Example], course: Pipeline) -> tuple[list[Example], list[Example]]:
    """Those to learn from, at least one, and those only to measure with."""
    order = np.random.default_rng((course.train.seed, 2)).permutation(len(examples))
    count = min(round(course.held_out * len(examples)), len(examples) - 1)
    kept = set(order[:count].tolist())
    return (
        [example for number, example in enumerate(examples) if number not in kept],
        [example for number, example in enumerate(examples) if number in kept],
    )


def _samples(course: Pipeline, base: BaseModel, learnt: list[Example], kept: list[Example]) -> Samples:
    """Samples in the voice of a clip that is learnt, of words that are not."""
    voice = learnt[0]
    text = course.sample_text or (kept or learnt)[0].text
    return Samples(base.directory, course.out / "samples", text, voice.speaker, voice, course.train.seed)


def _what(course: Pipeline, base: BaseModel, learnt: list[Example]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for each in learnt:
        digest.update(f"{each.text}\0{each.speaker}\0{len(each.codes)}\0".encode())
        digest.update(each.codes.tobytes())
    return {
        "base": base.identity,
        "clips": digest.hexdigest()[:16],
        "lora": None if course.lora is None else asdict(course.lora),
        "step_positions": course.step_positions,
        "heard_share": course.heard_share,
    }


def _write(course: Pipeline, base: BaseModel, adapted: PeftModel | None) -> Path:
    made = course.out / ("model" if adapted is None else "adapter")
    if made.exists():  # of this very run, when it had fewer steps
        shutil.rmtree(made)
    if adapted is None:
        return export_model(base.directory, merged_tensors(base.model), made)
    partial = made.with_name(f"{made.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_adapter(adapted, base, partial)
    return partial.rename(made)
