"""A service shared by the tests of a module: starting one takes longer than most tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.settings import Settings
from tests.integration.conftest import KEY, Server

__all__ = ["KEY", "Server", "serving"]


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Server]:
    """A ready service with the fake engine, its voices and its log in a folder."""
    environ = {
        "API_KEY": f"{KEY},second-key",
        "TTS_NORMALIZE": "off",  # the fake engine reads instructions such as [raise@3] in texts
        "HOST": "127.0.0.1",
        "MODEL_PATH": "fake",
        "KOKORO_VOICES": "off",
        "VOICES_DIR": str(folder / "voices"),
        "PRELOADED_VOICES_DIR": str(folder / "preloaded"),
        "TMPDIR": str(folder / "spool"),
        **settings,
    }
    (folder / "spool").mkdir()
    with pytest.MonkeyPatch.context() as patch:  # the developer's settings must not affect tests
        for name in list(os.environ):
            if name.lower() in Settings.model_fields:
                patch.delenv(name)
        server = Server(environ, folder)
    try:
        server.wait_for(200)
        yield server
    finally:
        server.kill()
