"""Clips of chance, and short runs on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from training.base_model import load_base
from training.example import Example
from training.sampler import ClipSampler
from training.settings import TrainSettings
from training.trainer import Hooks, Outcome, train

SHORT = TrainSettings(steps=10, learning_rate=1e-3, warmup=2, depth_share=0.5, log_every=2, save_every=3, device="cpu")

# Steps of two batches, of three, so that one of two processes has more to do, and of one, so that it has nothing.
DIVIDED = replace(SHORT, steps=5, depth_share=1.0, max_positions=100, log_every=1)


def clips_of_chance(count: int, speakers: int = 2, seed: int = 0) -> list[Example]:
    """Clips of different lengths, for the tiny checkpoint of engine.random_checkpoint."""
    rng = np.random.default_rng(seed)
    return [
        Example(f"clip {n}", f"Words {'la ' * n}{n}.", n % speakers, rng.integers(0, 64, (4 + n, 4)))
        for n in range(count)
    ]


def run(
    base_directory: Path, out: Path, settings: TrainSettings = SHORT, hooks: Hooks | None = None, **changes: Any
) -> tuple[Outcome, dict[str, Tensor]]:
    """Train a fresh copy of the base on nine clips. -> how it ended, and all weights."""
    base = load_base(str(base_directory))
    settings = replace(settings, **changes)
    clips = ClipSampler(clips_of_chance(9), base.layout, 250, settings.seed)
    outcome = train(base.model, base.layout, clips, settings, out, hooks)
    return outcome, base.model.state_dict()
