"""bench.interruptions on the fake engine: an interrupted answer falls silent, and its slot is free."""

from __future__ import annotations

import json
import os
from unittest import mock

import pytest

from bench.interruptions import main


@pytest.mark.timeout(120)
def test_answers_are_interrupted_by_cancelling_and_by_speech(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.dict(os.environ):  # it sets the service's settings
        assert main(["--serve", "fake:frame_seconds=0.01", "--times", "2"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert (result["model"], result["times"]) == ("fake:frame_seconds=0.01", 2)
    for kind in ("response.cancel", "speech"):
        assert any(line.startswith(kind) for line in table)
        for span in ("last_audio", "slot_free"):
            assert 0 <= result[kind][f"{span}_median_ms"] <= result[kind][f"{span}_worst_ms"]
        assert result[kind]["slot_free_median_ms"] > 0
