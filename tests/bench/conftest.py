from __future__ import annotations

from pathlib import Path

import pytest

from engine.random_checkpoint import TINY, build_model, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), build_model(TINY))
