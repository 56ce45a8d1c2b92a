"""Random clips and short training runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from training.base_checkpoint import load_base
from training.example import Example
from training.sampler import ClipSampler
from training.settings import TrainSettings
from training.trainer import Hooks, Outcome, train

SHORT = TrainSettings(steps=10, learning_rate=1e-3, warmup=2, depth_share=0.5, log_every=2, save_every=3, device="cpu")

# Steps of two batches, of three (uneven over two processes) and of one (one process idle).
MULTI_BATCH = replace(SHORT, steps=5, depth_share=1.0, max_positions=100, log_every=1)


def random_examples(count: int, speakers: int = 2, seed: int = 0) -> list[Example]:
    """Random clips of different lengths for engine.random_checkpoint's tiny model."""
    rng = np.random.default_rng(seed)
    return [
        Example(f"clip {n}", f"Words {'la ' * n}{n}.", n % speakers, rng.integers(0, 64, (4 + n, 4)))
        for n in range(count)
    ]


def run(
    base_directory: Path, out: Path, settings: TrainSettings = SHORT, hooks: Hooks | None = None, **changes: Any
) -> tuple[Outcome, dict[str, Tensor]]:
    """Train a fresh copy of the base on nine clips. Returns the outcome and all weights."""
    base = load_base(str(base_directory))
    settings = replace(settings, **changes)
    sampler = ClipSampler(random_examples(9), base.layout, 250, settings.seed)
    outcome = train(base.model, base.layout, sampler, settings, out, hooks)
    return outcome, base.model.state_dict()
