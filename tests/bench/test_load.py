"""bench.load against a real service on the fake engine, briefly and with few clients: no result is evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.load import main
from bench.load_test.load_generator import LoadGenerator
from bench.load_test.metrics import compute_metrics
from bench.load_test.report import plot
from bench.load_test.server import running_server
from bench.load_test.trial import FORMATS, Track, Trial

SHORT = ["--ramp", "0.5", "--seconds", "1.5", "--drain", "5", "--clip-seconds", "0.8", "--processes", "2"]


def test_a_service_is_started_measured_and_stopped(capfd: pytest.CaptureFixture[str]) -> None:
    serve = ["--serve", "fake:frame_seconds=0.01", "--slots", "8"]
    assert main([*serve, "--loads", "3", "--format", "wav", *SHORT]) == 0
    data = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert data["workers"] == [{"engine": "fake", "gpu": None, "capacity": 8}]
    runs = {(run["loop"], run["track"]): run for run in data["runs"]}
    assert set(runs) == {(loop, track) for loop in ("closed", "open") for track in ("fixed", "natural")}
    fixed = runs["closed", "fixed"]
    assert fixed["answer_seconds"] == [0.8, 0.8]
    assert fixed["streams"] == fixed["answered"] > 0
    assert fixed["audio_seconds_per_second"] > 0


def test_requests_rejected_by_a_full_service_are_counted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_QUEUED_REQUESTS", "0")
    serve = ["--serve", "fake:frame_seconds=0.05", "--slots", "1", "--loop", "closed", "--track", "fixed"]
    assert main([*serve, "--first", "4", "--most", "4", "--trials", "1", *SHORT]) == 0
    printed = capfd.readouterr().out
    data = json.loads(printed.splitlines()[-1])
    (run,) = data["runs"]
    assert run["rejects"]["429"] == run["streams"] - run["answered"] > 0
    assert not run["holds"]
    assert data["largest"][0]["load"] is None
    assert "no load holds" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://192.0.2.1:8000"], "on this machine"),
        (["--url", "http://127.0.0.1:9"], "no service at"),
        (["--serve", "fake:load_fails=true"], "loading fails"),
    ],
)
def test_errors_are_reported(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert message in capfd.readouterr().err


def test_plotting_needs_only_matplotlib(tmp_path: Path) -> None:
    path = tmp_path / "load.png"
    assert (plot([], path) is None) == path.exists()


def test_a_slow_and_stalling_engine_is_detected(capfd: pytest.CaptureFixture[str]) -> None:
    serve = ["--serve", "fake:frame_seconds=0.04,first_frame_seconds=0.12,stall_seconds=1,stall_after=4"]
    short = ["--ramp", "0", "--seconds", "1", "--drain", "8", "--clip-seconds", "1.6", "--processes", "1"]
    assert main([*serve, "--slots", "2", "--loop", "closed", "--track", "fixed", "--loads", "2", *short]) == 0
    (run,) = json.loads(capfd.readouterr().out.splitlines()[-1])["runs"]
    assert run["answered"] == run["streams"] > 0
    assert run["first_audio_ms"]["p50"] >= 120
    assert run["worst_gap_ms"] >= 950  # one second, minus a possible delay of the first frame
    assert (run["c50"], run["c100"], run["c200"]) == (0, 0, 0)
    assert not run["holds"]


def test_a_burst_is_sent_at_once_and_measured(capfd: pytest.CaptureFixture[str]) -> None:
    serve = ["--serve", "fake:frame_seconds=0.01", "--slots", "8", "--loop", "burst", "--track", "fixed"]
    assert main([*serve, "--loads", "6", *SHORT]) == 0
    data = json.loads(capfd.readouterr().out.splitlines()[-1])
    (run,) = data["runs"]
    assert (run["loop"], run["streams"], run["answered"]) == ("burst", 6, 6)
    assert data["first_audio_alone_ms"] > 0
    assert run["first_audio_ms"]["p95"] > 0


def test_every_format_is_read_to_its_end() -> None:
    slots = {"CONCURRENT_REQUESTS_PER_WORKER": "4"}
    with running_server("fake:frame_seconds=0.01", slots, 60) as address, LoadGenerator(1) as generator:
        for name in FORMATS:
            trial = Trial(address, Track("fixed", 0.8, name), "closed", 2, 0.0, 0.5, 20.0)
            metrics = compute_metrics(trial, generator.run(trial, lambda *args: None))
            assert metrics.answered == metrics.streams > 0, name
            assert metrics.answer_seconds is not None
            assert metrics.answer_seconds[0] >= 0.8, name
