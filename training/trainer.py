"""The training loop: each step is a function of the seed, the step number and the weights.

A step samples its sequences, splits them into batches, accumulates their gradients and updates the weights once. A
run that was killed resumes from its last state and ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from engine import MachineLimits

from .batches import Batch, collate, group_by_length
from .devices import uses_bfloat16, uses_cuda
from .errors import DivergenceError, OutOfMemoryError, TrainingError
from .losses import CsmLosses, Losses
from .optimizer import build_optimizer, learning_rate, set_learning_rate
from .run_log import RunLog
from .run_state import RunState, restore_weights, trained_weights
from .sequence import Layout, Sequence
from .settings import TrainSettings

log = logging.getLogger(__name__)

# The sequences of step `step`: a pure function of its arguments, so that a resumed run repeats an unbroken one.
Sequences = Callable[[int, np.random.Generator], list[Sequence]]


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a run. The model they receive is the trained one, in evaluation mode and without gradients.

    on_log: with every log entry. evaluate: every `evaluate_every` steps; its values join that step's entry.
    sample: every `sample_every` steps, with the number of completed steps. should_stop: called after every step; True
    ends the run with its state saved.
    """

    on_log: Callable[[dict[str, float]], None] | None = None
    evaluate: Callable[[Any], dict[str, float]] | None = None
    sample: Callable[[int, Any], None] | None = None
    should_stop: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Outcome:
    """steps: completed steps in total. finished: no step remains."""

    steps: int
    finished: bool


def train(
    model: Any,
    layout: Layout,
    sequences: Sequences,
    settings: TrainSettings,
    directory: Path,
    hooks: Hooks | None = None,
    run_identity: dict[str, Any] | None = None,
) -> Outcome:
    """Train all parameters that require gradients, except the codec's, in place.

    model: transformers' CsmForConditionalGeneration, plain or with LoRA layers. directory: for the state and the log; a
    state of this run there is resumed. run_identity: further JSON-compatible values that must match on resume, such as
    data and base. Torch's global seed is set in every step.
    Raises LayoutError (a sequence is too long), ResumeError (the state is another run's), DivergenceError,
    OutOfMemoryError.
    """
    try:
        return _Run(model, layout, sequences, settings, directory, hooks or Hooks(), run_identity or {}).run()
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"the GPU's memory is full, with max_positions {settings.max_positions}: lower it (a step then "
            "accumulates more batches, with the same result), or use gradient checkpointing (--checkpointing). The run "
            "resumes from its last state"
        ) from error


class _Run:
    def __init__(
        self,
        model: Any,
        layout: Layout,
        sequences: Sequences,
        settings: TrainSettings,
        directory: Path,
        hooks: Hooks,
        run_identity: dict[str, Any],
    ) -> None:
        self.model, self.layout, self.sequences = model, layout, sequences
        self.settings, self.directory, self.hooks = settings, directory, hooks
        self.binding = settings.binding() | run_identity
        self.accelerator = Accelerator(cpu=not uses_cuda(settings))
        cores = MachineLimits().cores()  # PyTorch counts the machine's cores, not its container's
        torch.set_num_threads(min(torch.get_num_threads(), cores.threads(self.accelerator.num_processes)))
        self.bfloat16 = uses_bfloat16(settings)
        self.device: torch.device = self.accelerator.device
        model.codec_model.requires_grad_(False)
        model.to(self.device)
        self.losses = self.accelerator.prepare_model(CsmLosses(model))
        self.optimizer = build_optimizer(model, settings)
        self.trained = [each for each in model.parameters() if each.requires_grad]
        self.codebook_weights: Tensor | None = None
        if settings.codebook_weights is not None:
            if len(settings.codebook_weights) != layout.codebooks - 1:
                raise TrainingError(
                    f"codebook_weights has {len(settings.codebook_weights)} values, but the model has "
                    f"{layout.codebooks - 1} codebooks after the first"
                )
            self.codebook_weights = torch.tensor(settings.codebook_weights, device=self.device)[:, None]
        self.steps_done = 0
        self.window: dict[str, float] = {}
        self._resume()

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    # ---- loop

    def run(self) -> Outcome:
        settings, started = self.settings, time.monotonic()
        run_log = RunLog(self.directory / "log.jsonl", self.steps_done) if self._is_main else None
        saved_at = self.steps_done
        self._set_training(True)
        while self.steps_done < settings.steps:
            self._step(self.steps_done)
            self.steps_done += 1
            entry: dict[str, float] = {}
            if self._is_due(settings.evaluate_every) and self.hooks.evaluate is not None:
                entry |= self._run_hook(self.hooks.evaluate, self.model) or {}
            if self._is_due(settings.log_every) or self.steps_done == settings.steps:
                entry = self._window_means() | entry
            if entry and run_log is not None:
                entry = {"step": self.steps_done} | entry
                run_log.write(entry)
                if self.hooks.on_log is not None:
                    self.hooks.on_log(entry)
            if self._is_due(settings.sample_every) and self.hooks.sample is not None:
                self._run_hook(self.hooks.sample, self.steps_done, self.model)
            stop = self._should_stop(started)
            if self._is_due(settings.save_every) or stop or self.steps_done == settings.steps:
                self._save()
                saved_at = self.steps_done
            if stop:
                break
        self._set_training(False)
        assert saved_at == self.steps_done
        return Outcome(self.steps_done, self.steps_done >= settings.steps)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.steps_done % every == 0

    def _should_stop(self, started: float) -> bool:
        minutes = self.settings.minutes
        time_is_up = minutes is not None and time.monotonic() - started >= minutes * 60
        stop = time_is_up or (self.hooks.should_stop is not None and self.hooks.should_stop())
        if self.accelerator.num_processes > 1:  # all must stop after the same step, or the others would wait forever
            stop_flag = torch.tensor(float(stop), device=self.device)
            stop = bool(self.accelerator.reduce(stop_flag, "sum").item() > 0)
        return stop

    def _run_hook(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        """Call a hook in the main process, in evaluation mode and without gradients."""
        result = None
        if self._is_main:
            self._set_training(False)
            with torch.no_grad():
                result = hook(*arguments)
            self._set_training(True)
        self.accelerator.wait_for_everyone()
        return result

    def _set_training(self, on: bool) -> None:
        self.model.train(on)
        self.model.codec_model.eval()

    # ---- one step

    def _step(self, step: int) -> None:
        started = time.monotonic()
        settings = self.settings
        rng = np.random.default_rng((settings.seed, step))
        groups = group_by_length(self.sequences(step, rng), self.layout, settings.max_positions)
        batches = [collate(group, self.layout, settings.depth_share, rng) for group in groups]
        targets = sum(len(batch.targets) for batch in batches)
        depth_targets = sum(len(batch.depth_targets) for batch in batches)
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        own_batches = batches[rank::ranks]
        # A rank without batches runs one with weight 0: gradient reduction waits for all ranks.
        is_dummy = not own_batches
        torch.manual_seed(int(rng.integers(1 << 62)) + rank)  # for dropout
        sums = torch.zeros(2, device=self.device)
        for number, batch in enumerate(own_batches or batches[:1], 1):
            more_batches = number < len(own_batches)
            with self.accelerator.no_sync(self.losses) if more_batches else nullcontext():
                sums += self._accumulate_gradients(
                    batch.to(self.device), targets, depth_targets, 0.0 if is_dummy else float(ranks)
                )
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, settings.clip))
        if ranks > 1:
            sums = self.accelerator.reduce(sums, "sum")
        first, depth = (sums / torch.tensor([targets, depth_targets * (self.layout.codebooks - 1)]).to(sums)).tolist()
        if not np.isfinite([norm, first, depth]).all():
            raise DivergenceError(
                f"step {step + 1}: the loss is {first} + {depth}, the gradient norm is {norm}. Use a learning rate "
                f"below {settings.learning_rate:g} or a warm-up longer than {settings.warmup} steps"
            )
        set_learning_rate(self.optimizer, learning_rate(settings, step))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._accumulate(
            steps=1,
            first=first,
            depth=depth,
            norm=norm,
            positions=sum(batch.positions for batch in batches),
            places=sum(batch.rows * batch.length for batch in batches),
            frames=targets,
            seconds=time.monotonic() - started,
        )

    def _accumulate_gradients(self, batch: Batch, targets: int, depth_targets: int, scale: float) -> Tensor:
        """Add one batch's share of the step's gradient. Returns the sums of its two losses, unweighted, (2,).

        targets, depth_targets: counts over the whole step, since losses are means over it regardless of batching.
        scale: the number of processes, over which gradients are averaged; 0 for a dummy batch.
        """
        settings = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses: Losses = self.losses(batch)
            depth = losses.depth if self.codebook_weights is None else losses.depth * self.codebook_weights
            loss = settings.first_weight * losses.first.sum() / targets
            loss = loss + settings.depth_weight * depth.sum() / (depth_targets * len(depth))
        self.accelerator.backward(loss * scale)
        sums = torch.stack((losses.first.detach().sum(), losses.depth.detach().sum()))
        return sums if scale else torch.zeros_like(sums)

    # ---- log and state

    def _accumulate(self, **values: float) -> None:
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0.0) + value

    def _window_means(self) -> dict[str, float]:
        """Means since the last log line."""
        window, self.window = self.window, {}
        steps, seconds = window["steps"], window["seconds"]
        first, depth = window["first"] / steps, window["depth"] / steps
        return {
            "loss": self.settings.first_weight * first + self.settings.depth_weight * depth,
            "first": first,
            "depth": depth,
            "learning_rate": learning_rate(self.settings, self.steps_done - 1),
            "norm": window["norm"] / steps,
            "frames": window["frames"] / steps,
            "padding": 1 - window["positions"] / window["places"],
            "seconds": seconds / steps,
            "positions_a_second": window["positions"] / seconds,
        }

    @property
    def _state_directory(self) -> Path:
        return self.directory / "state"

    def _save(self) -> None:
        if self._is_main:
            RunState(
                self.steps_done,
                trained_weights(self.model),
                self.optimizer.state_dict(),
                dict(self.window),
                self.binding,
            ).save(self._state_directory)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        state = RunState.newest(self._state_directory)
        if state is None:
            return
        state.check(self.binding, self.directory)
        restore_weights(self.model, state.trained, self.directory)
        self.optimizer.load_state_dict(state.optimizer)
        self.steps_done, self.window = state.steps, state.window
        log.info("resuming after step %d of %s", self.steps_done, self.directory)
