"""The training loop: steps that depend on the seed, their number and the weights, and on nothing else.

A step draws its sequences, cuts them into batches, adds up their gradients and changes the weights once. A run that
was killed goes on from its last state and ends as one that was not.
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

from .batches import Batch, collate, split
from .devices import uses_bfloat16, uses_cuda
from .errors import Diverged, OutOfMemory, TrainingError
from .losses import CsmLosses, Losses
from .optimizer import build_optimizer, learning_rate, set_learning_rate
from .run_log import RunLog
from .run_state import RunState, restore_weights, trained_weights
from .sequence import Layout, Sequence
from .settings import TrainSettings

log = logging.getLogger(__name__)

# What step `step` learns from: a function of its arguments alone, or a resumed run would not be an unbroken one.
Sequences = Callable[[int, np.random.Generator], list[Sequence]]


@dataclass(frozen=True)
class Hooks:
    """What else happens in a run. The model they get is the one that is trained, in evaluation mode, no gradients.

    logged: with every line of the log. evaluate: every `evaluate_every` steps; its figures join that step's line.
    sample: every `sample_every` steps, with the number of steps done. stop: asked after every step; True ends the run
    cleanly.
    """

    logged: Callable[[dict[str, float]], None] | None = None
    evaluate: Callable[[Any], dict[str, float]] | None = None
    sample: Callable[[int, Any], None] | None = None
    stop: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Outcome:
    """steps: how many are done, all in all. finished: none is left to do."""

    steps: int
    finished: bool


def train(
    model: Any,
    layout: Layout,
    sequences: Sequences,
    settings: TrainSettings,
    directory: Path,
    hooks: Hooks | None = None,
    what: dict[str, Any] | None = None,
) -> Outcome:
    """Train what requires a gradient in the model, but for the codec, which never does. In place.

    model: transformers' CsmForConditionalGeneration, plain or with LoRA layers in it. directory: holds the state and
    the log; if there is a state of this run, it goes on from there. what: names, fit for JSON, of what else makes it
    this run: its data, its base. torch's global seed is set in every step.
    Raises LayoutError (a sequence too long), ResumeError (the state is another run's), Diverged,
    OutOfMemory.
    """
    try:
        return _Run(model, layout, sequences, settings, directory, hooks or Hooks(), what or {}).go()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"the GPU's memory is full, with max_positions {settings.max_positions}: lower that (a step is then done "
            "in more batches and stays the same), or keep fewer activations (checkpointing). The run goes on from its "
            "last state"
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
        what: dict[str, Any],
    ) -> None:
        self.model, self.layout, self.sequences = model, layout, sequences
        self.settings, self.directory, self.hooks = settings, directory, hooks
        self.binding = settings.binding() | what
        self.accelerator = Accelerator(cpu=not uses_cuda(settings))
        cores = MachineLimits().cores()  # PyTorch counts those of the machine, whatever its container may use
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
                    f"codebook_weights are {len(settings.codebook_weights)}, but the model has {layout.codebooks - 1} "
                    "codebooks behind the first"
                )
            self.codebook_weights = torch.tensor(settings.codebook_weights, device=self.device)[:, None]
        self.done = 0
        self.window: dict[str, float] = {}
        self._resume()

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    # ---- the loop

    def go(self) -> Outcome:
        settings, began = self.settings, time.monotonic()
        written = RunLog(self.directory / "log.jsonl", self.done) if self._main else None
        saved = self.done
        self._teach(True)
        while self.done < settings.steps:
            self._step(self.done)
            self.done += 1
            entry: dict[str, float] = {}
            if self._due(settings.evaluate_every) and self.hooks.evaluate is not None:
                entry |= self._aside(self.hooks.evaluate, self.model) or {}
            if self._due(settings.log_every) or self.done == settings.steps:
                entry = self._account() | entry
            if entry and written is not None:
                entry = {"step": self.done} | entry
                written.write(entry)
                if self.hooks.logged is not None:
                    self.hooks.logged(entry)
            if self._due(settings.sample_every) and self.hooks.sample is not None:
                self._aside(self.hooks.sample, self.done, self.model)
            stop = self._stopping(began)
            if self._due(settings.save_every) or stop or self.done == settings.steps:
                self._save()
                saved = self.done
            if stop:
                break
        self._teach(False)
        assert saved == self.done
        return Outcome(self.done, self.done >= settings.steps)

    def _due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def _stopping(self, began: float) -> bool:
        minutes = self.settings.minutes
        over = minutes is not None and time.monotonic() - began >= minutes * 60
        stop = over or (self.hooks.stop is not None and self.hooks.stop())
        if self.accelerator.num_processes > 1:  # all of them stop behind the same step, or the others wait for ever
            told = torch.tensor(float(stop), device=self.device)
            stop = bool(self.accelerator.reduce(told, "sum").item() > 0)
        return stop

    def _aside(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """Something that is no step, in the first process alone."""
        answer = None
        if self._main:
            self._teach(False)
            with torch.no_grad():
                answer = what(*arguments)
            self._teach(True)
        self.accelerator.wait_for_everyone()
        return answer

    def _teach(self, on: bool) -> None:
        self.model.train(on)
        self.model.codec_model.eval()

    # ---- one step

    def _step(self, step: int) -> None:
        began = time.monotonic()
        settings = self.settings
        rng = np.random.default_rng((settings.seed, step))
        groups = split(self.sequences(step, rng), self.layout, settings.max_positions)
        batches = [collate(group, self.layout, settings.depth_share, rng) for group in groups]
        targets = sum(len(batch.targets) for batch in batches)
        chosen = sum(len(batch.chosen) for batch in batches)
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        own = batches[rank::ranks]
        # A rank that has fewer than another joins in with a batch that counts for nothing: each waits for all.
        idle = not own
        torch.manual_seed(int(rng.integers(1 << 62)) + rank)  # dropout, if there is any
        sums = torch.zeros(2, device=self.device)
        for number, batch in enumerate(own or batches[:1], 1):
            waiting = number < len(own)
            with self.accelerator.no_sync(self.losses) if waiting else nullcontext():
                sums += self._gradient(batch.to(self.device), targets, chosen, 0.0 if idle else float(ranks))
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, settings.clip))
        if ranks > 1:
            sums = self.accelerator.reduce(sums, "sum")
        first, depth = (sums / torch.tensor([targets, chosen * (self.layout.codebooks - 1)]).to(sums)).tolist()
        if not np.isfinite([norm, first, depth]).all():
            raise Diverged(
                f"step {step + 1}: the loss is {first} + {depth}, its gradient's norm {norm}. A lower learning rate "
                f"than {settings.learning_rate:g} or a longer warm-up than {settings.warmup} steps helps"
            )
        set_learning_rate(self.optimizer, learning_rate(settings, step))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._count(
            steps=1,
            first=first,
            depth=depth,
            norm=norm,
            positions=sum(batch.positions for batch in batches),
            places=sum(batch.rows * batch.length for batch in batches),
            frames=targets,
            seconds=time.monotonic() - began,
        )

    def _gradient(self, batch: Batch, targets: int, chosen: int, scale: float) -> Tensor:
        """Add one batch's part of the step's gradient. -> (2,): the sums of its losses, unweighted.

        targets, chosen: of the whole step. Losses are means over it, however it was cut. scale: 1, or the number
        of processes, over which gradients are averaged.
        """
        settings = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses: Losses = self.losses(batch)
            depth = losses.depth if self.codebook_weights is None else losses.depth * self.codebook_weights
            loss = settings.first_weight * losses.first.sum() / targets
            loss = loss + settings.depth_weight * depth.sum() / (chosen * len(depth))
        self.accelerator.backward(loss * scale)
        sums = torch.stack((losses.first.detach().sum(), losses.depth.detach().sum()))
        return sums if scale else torch.zeros_like(sums)

    # ---- what is written

    def _count(self, **figures: float) -> None:
        for name, figure in figures.items():
            self.window[name] = self.window.get(name, 0.0) + figure

    def _account(self) -> dict[str, float]:
        """The means since the last line."""
        window, self.window = self.window, {}
        steps, seconds = window["steps"], window["seconds"]
        first, depth = window["first"] / steps, window["depth"] / steps
        return {
            "loss": self.settings.first_weight * first + self.settings.depth_weight * depth,
            "first": first,
            "depth": depth,
            "learning_rate": learning_rate(self.settings, self.done - 1),
            "norm": window["norm"] / steps,
            "frames": window["frames"] / steps,
            "padding": 1 - window["positions"] / window["places"],
            "seconds": seconds / steps,
            "positions_a_second": window["positions"] / seconds,
        }

    @property
    def _states(self) -> Path:
        return self.directory / "state"

    def _save(self) -> None:
        if self._main:
            RunState(
                self.done,
                trained_weights(self.model),
                self.optimizer.state_dict(),
                dict(self.window),
                self.binding,
            ).save(self._states)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        state = RunState.newest(self._states)
        if state is None:
            return
        state.check(self.binding, self.directory)
        restore_weights(self.model, state.trained, self.directory)
        self.optimizer.load_state_dict(state.optimizer)
        self.done, self.window = state.steps, state.window
        log.info("going on behind step %d of %s", self.done, self.directory)
