"""bench.interruptions on the fake engine: both kinds of interruption end the answer and free its slot."""

from __future__ import annotations

import json

import pytest

from bench.interruptions import main


@pytest.fixture(autouse=True)
def _restored_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "API_KEY MODEL_PATH DEVICE LOG_LEVEL CONCURRENT_REQUESTS_PER_WORKER VOICES_DIR PRELOADED_VOICES_DIR"
    for name in names.split():
        monkeypatch.setenv(name, "")


def test_interruptions_are_measured(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--serve", "fake:frame_seconds=0.02", "--times", "1"]) == 0
    data = json.loads(capfd.readouterr().out.splitlines()[-1])
    for kind in ("response.cancel", "speech"):
        assert data[kind]["last_audio_worst_ms"] >= 0
        assert data[kind]["slot_free_median_ms"] > 0
