from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.settings import Settings


@pytest.fixture(autouse=True)
def _a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set must not change what a test sees."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a service that runs on the fake engine."""
    return {
        "API_KEY": "first-key,second-key",
        "HOST": "127.0.0.1",
        "MODEL_PATH": "fake",
        "VOICES_DIR": str(tmp_path / "voices"),
        "PRELOADED_VOICES_DIR": str(tmp_path / "preloaded"),
        "CONCURRENT_REQUESTS_PER_WORKER": "2",
    }


@pytest.fixture
def settings(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    from app.settings import load_settings

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return load_settings(None)
