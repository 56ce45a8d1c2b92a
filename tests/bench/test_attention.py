from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import attention, machine
from bench.attention import main


def zero_attention(q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    return torch.zeros_like(q)


@pytest.mark.parametrize("ragged", [None, zero_attention])
def test_masked_and_ragged_times_are_printed_with_the_floor(
    checkpoint: Path, ragged: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "measure_bandwidth", lambda device: machine.Bandwidth(1e10, 2e10))
    monkeypatch.setattr(attention, "verified_ragged_attention", lambda *args: ragged)
    sizes = ["--rows", "1", "3", "--live", "50", "--longest", "50", "300", "9999", "--rounds", "1"]
    main(["--model", str(checkpoint), "--device", "cpu", "--dtype", "float32", *sizes])
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    table = data["attention"]
    assert [(line["rows"], line["longest"], line["bucket"]) for line in table] == [
        (rows, longest, bucket) for rows in (1, 3) for longest, bucket in ((50, 256), (300, 512), (512, 512))
    ]
    position = 2 * 3 * 2 * 8 * 4  # keys and values of 3 layers and 2 heads, 8 wide, of 4 bytes
    assert table[4]["live_bytes"] == (50 + 50 + 300) * position
    assert table[4]["bucket_bytes"] == 3 * 512 * position
    for line in table:
        assert line["masked_seconds"] > 0
        assert (line["live_seconds"] is None) == (ragged is None)
        assert line["floor_seconds"] == pytest.approx(line["live_bytes"] / 2e10)
