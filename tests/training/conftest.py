from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import random_checkpoint
from training.base_checkpoint import BaseCheckpoint, load_base
from training.example import Example

from .short_runs import random_examples


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Faster for small tensors, and sums have a fixed order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint, saved by transformers."""
    model = random_checkpoint.build_model(random_checkpoint.TINY)
    return random_checkpoint.write_checkpoint(tmp_path_factory.mktemp("base"), model)


@pytest.fixture
def base(base_directory: Path) -> BaseCheckpoint:
    return load_base(str(base_directory))


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Random clips of two speakers, of different lengths."""
    return random_examples(9)
