from __future__ import annotations

import json

import pytest

from bench.worker import Snapshot, lag_at, main


def test_the_cost_includes_event_loop_and_encoding(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--listeners", "2", "--formats", "mp3", "--frame-ms", "5", "--ramp", "0", "--seconds", "1"]
    assert main([*arguments, "--processes", "1"]) == 0
    (cost,) = json.loads(capfd.readouterr().out.splitlines()[-1])["costs"]
    assert (cost["format"], cost["answered"]) == ("mp3", 1.0)
    assert min(cost["event_loop_ms"], cost["encoding_ms"], cost["floor_ms"], cost["listening_ms"]) > 0


def test_lag_is_computed_from_the_difference_of_two_snapshots() -> None:
    before = Snapshot(0.0, 0.0, {}, {0.01: 100.0, 0.1: 100.0, float("inf"): 100.0}, 0.0)
    after = Snapshot(0.0, 0.0, {}, {0.01: 150.0, 0.1: 196.0, float("inf"): 200.0}, 0.0)
    assert [lag_at(share, before, after) for share in (0.5, 0.95, 0.99)] == [0.01, 0.1, float("inf")]
    assert lag_at(0.95, after, after) is None
