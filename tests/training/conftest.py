from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import random_checkpoint
from training.base_model import BaseModel, load_base
from training.example import Example

from .chance import clips_of_chance


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products are quicker so, and sums are made in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of chance, as transformers writes it."""
    model = random_checkpoint.build_model(random_checkpoint.TINY)
    return random_checkpoint.write_checkpoint(tmp_path_factory.mktemp("base"), model)


@pytest.fixture
def base(base_directory: Path) -> BaseModel:
    return load_base(str(base_directory))


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Clips of two speakers, of codes of chance and of different lengths."""
    return clips_of_chance(9)
