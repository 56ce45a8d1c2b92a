from __future__ import annotations

import pytest

from app.pool.gpus import visible_gpus


@pytest.mark.parametrize(
    ("device", "listed", "count", "gpus"),
    [
        ("auto", None, 0, []),
        ("auto", None, 3, ["0", "1", "2"]),
        ("cuda", None, 2, ["0", "1"]),
        ("cpu", "0,1", 4, []),
        ("auto", "", 4, []),
        ("auto", "-1", 4, []),
        ("auto", "3, 1", 4, ["3", "1"]),
        ("auto", "2,-1,0", 4, ["2"]),
        ("auto", "0,9,1", 4, ["0"]),
        ("auto", "GPU-5ef,MIG-a/1/0", 4, ["GPU-5ef", "MIG-a/1/0"]),
        ("cuda:1", "3,1", 4, ["1"]),
        ("cuda:7", None, 2, []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(
    device: str, listed: str | None, count: int, gpus: list[str]
) -> None:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert visible_gpus(device, environ, count) == gpus
