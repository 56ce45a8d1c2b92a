from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import machine, peers
from bench.peers import main
from engine.loading import _cpu_is_fast_at_bfloat16


def test_all_systems_generate_equal_audio_and_get_ratios(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "measure_bandwidth", lambda device: machine.Bandwidth(1e10, 2e10))
    sizes = ["--rows", "1", "2", "--streams", "2", "--frames", "3", "--rounds", "1", "--peer-compile", "off"]
    main(["--model", str(checkpoint), "--device", "cpu", *sizes])
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    systems = ["transformers, one after the other", "transformers, 2 on streams"]
    assert list(data["ratio"]) == [*systems, "csm-serve, 1 at once", "csm-serve, 2 at once"]
    assert data["ratio"][systems[0]] == 1.0
    assert data["left_out"] == ["transformers, static and compiled"]
    for name, rate in data["audio_seconds_per_second"].items():
        seconds = int(next(filter(str.isdigit, name), "1")) * 3 * 0.08
        assert rate == pytest.approx(seconds / data["seconds"][name][0], rel=0.01)
    assert data["dtype"] == ("torch.bfloat16" if _cpu_is_fast_at_bfloat16() else "torch.float32")
