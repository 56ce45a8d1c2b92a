"""The training pipeline: from prepared clips and a base checkpoint to an adapter or a full model."""

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

from .base_checkpoint import BaseCheckpoint, enable_gradient_checkpointing, load_base
from .codes import read_codec, read_codes
from .devices import uses_bfloat16
from .errors import CodesError, TrainingError
from .evaluation import held_out_losses
from .example import Example
from .export import export_model
from .lora import LoraSettings, add_lora, merged_tensors, write_adapter
from .report import TensorBoardLogger, plot_losses
from .sampler import ClipSampler
from .samples import SampleWriter
from .sequence import Sequence
from .settings import TrainSettings
from .trainer import Hooks, Outcome, train


@dataclass(frozen=True)
class PipelineConfig:
    """Options of `csm-serve train`.

    model: directory or hub id. out: output directory. lora: None trains all weights.
    step_positions: positions per optimizer step, over all processes. held_out: share of clips used for evaluation only.
    prompt_share: share of clips trained with another clip of their speaker as a voice prompt.
    sample_text: text of the samples; empty takes the first held-out clip's text, or the first clip's.
    checkpointing: gradient checkpointing.
    """

    model: str
    out: Path
    train: TrainSettings
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    step_positions: int = 4096
    held_out: float = 0.05
    prompt_share: float = 0.5
    sample_text: str = ""
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("held_out", "prompt_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be from 0 to 1")
        if self.step_positions < 1:
            raise ValueError(f"step_positions is {self.step_positions}, but must be at least 1")


@dataclass(frozen=True)
class PipelineResult:
    """output: directory of the adapter or of the model; None if the run has not finished."""

    outcome: Outcome
    output: Path | None


def read_examples(data: Path, model: str, token: str | None = None) -> list[Example]:
    """Read the clips of a folder made by `csm-serve prepare`, checking that the model's codec encoded them.

    Raises CodesError, and the engine's CheckpointNotFound and CheckpointError.
    """
    examples = read_codes(data)
    if read_codec(data) != load_encoder(EngineConfig(model, device="cpu", hub_token=token)).fingerprint:
        raise CodesError(
            f"{data}: its codes are from another codec than {model}'s; prepare the recordings again: "
            f"csm-serve prepare RECORDINGS OUT --model {model}"
        )
    return examples


def run_pipeline(
    config: PipelineConfig,
    examples: list[Example],
    token: str | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> PipelineResult:
    """Run to the last step, or until `should_stop`; a further call resumes.

    Raises subclasses of TrainingError, and the engine's CheckpointNotFound and CheckpointError.
    """
    if not examples:
        raise TrainingError("there are no clips to train on: prepare some recordings first")
    base = load_base(config.model, token, _frozen_dtype(config))
    adapted = None if config.lora is None else add_lora(base, config.lora, config.train.seed)
    if config.checkpointing:
        enable_gradient_checkpointing(base.model)
    train_examples, held_out = _split_held_out(examples, config)
    base.layout.check(held_out)
    sampler = ClipSampler(train_examples, base.layout, config.step_positions, config.train.seed, config.prompt_share)
    config.out.mkdir(parents=True, exist_ok=True)
    tensorboard = TensorBoardLogger(config.out / "tensorboard")

    def log_entry(entry: dict[str, float]) -> None:
        tensorboard(entry)
        if on_log is not None:
            on_log(entry)

    settings = config.train if held_out else replace(config.train, evaluate_every=0)
    hooks = Hooks(
        on_log=log_entry,
        evaluate=lambda model: held_out_losses(
            model,
            base.layout,
            [Sequence((example,)) for example in held_out],
            settings.max_positions,
            uses_bfloat16(settings),
        ),
        sample=_sample_writer(config, base, train_examples, held_out),
        should_stop=should_stop,
    )
    try:
        outcome = train(
            base.model, base.layout, sampler, settings, config.out, hooks, _run_identity(config, base, train_examples)
        )
    finally:
        tensorboard.close()
    output = None
    if PartialState().is_main_process:
        plot_losses(config.out / "log.jsonl", config.out / "loss.png")
        output = _write_output(config, base, adapted) if outcome.finished else None
    PartialState().destroy_process_group()  # a no-op in a single process
    return PipelineResult(outcome, output)


def _frozen_dtype(config: PipelineConfig) -> torch.dtype:
    """Dtype of the loaded weights: frozen ones may be bfloat16 when computed in it, trained ones are float32."""
    return torch.bfloat16 if config.lora is not None and uses_bfloat16(config.train) else torch.float32


def _split_held_out(examples: list[Example], config: PipelineConfig) -> tuple[list[Example], list[Example]]:
    """Training clips, at least one, and held-out clips."""
    order = np.random.default_rng((config.train.seed, 2)).permutation(len(examples))
    count = min(round(config.held_out * len(examples)), len(examples) - 1)
    indices = set(order[:count].tolist())
    return (
        [example for number, example in enumerate(examples) if number not in indices],
        [example for number, example in enumerate(examples) if number in indices],
    )


def _sample_writer(
    config: PipelineConfig, base: BaseCheckpoint, train_examples: list[Example], held_out: list[Example]
) -> SampleWriter:
    """Samples use a training clip as the voice prompt and a text that is not trained on."""
    voice = train_examples[0]
    text = config.sample_text or (held_out or train_examples)[0].text
    return SampleWriter(base.directory, config.out / "samples", text, voice.speaker, voice, config.train.seed)


def _run_identity(config: PipelineConfig, base: BaseCheckpoint, train_examples: list[Example]) -> dict[str, Any]:
    """Data and options that must match on resume."""
    digest = hashlib.sha256()
    for each in train_examples:
        digest.update(f"{each.text}\0{each.speaker}\0{len(each.codes)}\0".encode())
        digest.update(each.codes.tobytes())
    return {
        "base": base.fingerprint,
        "clips": digest.hexdigest()[:16],
        "lora": None if config.lora is None else asdict(config.lora),
        "step_positions": config.step_positions,
        "heard_share": config.prompt_share,
    }


def _write_output(config: PipelineConfig, base: BaseCheckpoint, adapted: PeftModel | None) -> Path:
    output = config.out / ("model" if adapted is None else "adapter")
    if output.exists():  # written by this run with a lower step count
        shutil.rmtree(output)
    if adapted is None:
        return export_model(base.directory, merged_tensors(base.model), output)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_adapter(adapted, base, partial)
    return partial.rename(output)
