"""An engine on a CPU in a container: threads, slots, and the reason if it does not fit."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from engine import EngineConfig, EngineOutOfMemory
from engine.config import CPU_SLOTS
from engine.cpu_resources import choose_threads, memory_after_loading
from engine.loading import Loaded, load
from engine.machine_limits import MachineLimits, Memory
from engine.model.csm import CsmModel

from ..kernel_files import GIB, MIB, V2_MOUNT, v2


@pytest.fixture
def threads() -> Iterator[None]:
    """Eight threads, as PyTorch chooses on a machine with eight cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def limited(root: Path, memory: int = 4 * GIB, used: int = 0, quota: str = "max 100000") -> MachineLimits:
    files = v2(root)
    files.group(V2_MOUNT, memory__max=str(memory), memory__current=str(used), cpu__max=quota)
    return files.limits()


def model_of(size: int) -> CsmModel:
    """A stand-in for a model of `size` bytes."""
    return cast(CsmModel, SimpleNamespace(parameters=lambda: [SimpleNamespace(nbytes=size)]))


def loaded(checkpoint: Path, limits: MachineLimits, **changes: Any) -> Loaded:
    config = EngineConfig(str(checkpoint), "cpu", "float32", **{"slots": 0} | changes)
    return load(config, lambda share, what: None, limits)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("quota", "workers", "expected"),
    [("max 100000", 1, 8), ("50000 100000", 1, 1), ("250000 100000", 1, 3), ("400000 100000", 2, 2), ("9900 1", 1, 8)],
)
def test_a_large_model_uses_its_workers_share_of_the_cores(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, quota: str, workers: int, expected: int
) -> None:
    caplog.set_level(logging.INFO)
    choose_threads(model_of(3 * GIB), workers, limited(tmp_path, quota=quota))
    assert torch.get_num_threads() == expected
    (line,) = caplog.messages
    assert line.startswith(f"{expected} threads: ")
    assert ("cpu.max of the cgroup /" in line) == (expected < 8)


@pytest.mark.usefixtures("threads")
def test_a_lower_number_of_threads_is_kept(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    choose_threads(model_of(3 * GIB), 1, limited(tmp_path))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("threads")
def test_a_small_model_uses_one_thread(tmp_path: Path) -> None:
    choose_threads(model_of(30 * MIB), 1, limited(tmp_path))
    assert torch.get_num_threads() == 1


def test_a_large_container_gets_all_slots_and_the_whole_voice_cache(checkpoint: Path, tmp_path: Path) -> None:
    ready = loaded(checkpoint, limited(tmp_path, 16 * GIB))
    assert ready.slots == CPU_SLOTS
    assert ready.voice_cache_bytes == GIB


def test_a_small_container_gets_fewer_slots_and_logs_why(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loaded(checkpoint, limited(tmp_path))
    row = next(int(found[1]) for line in caplog.messages if (found := re.search(r"a slot takes (\d+) MiB", line)))
    slots = []
    for rows in (0, 2, 3, 9):
        # a quarter for the voice cache, 256 MiB for work, the rest for rows and prefill
        size = (256 + row // 2 + rows * (row + 1)) * 4 // 3
        ready = loaded(checkpoint, limited(tmp_path / str(rows), size * MIB))
        slots.append(ready.slots)
        assert size - 5 <= ready.voice_cache_bytes * 4 / MIB <= size  # the weights are loaded already
        reason = f"memory.max of the cgroup / is {size} MiB"
        assert any(line.startswith(f"{ready.slots} slots: ") and reason in line for line in caplog.messages)
    assert slots == [1, 2, 3, CPU_SLOTS]


def test_weights_in_the_page_cache_are_not_available() -> None:
    model = torch.nn.Linear(1024, 1024)
    before, now = (Memory(4 * GIB, 0, available, "", True) for available in (3 * GIB, 2 * GIB))
    assert memory_after_loading(cast(CsmModel, model), before, now) == now  # the kernel has counted the weights
    assert memory_after_loading(cast(CsmModel, model), now, before).available == 2 * GIB - 4 * 1024 * 1025
    assert memory_after_loading(cast(CsmModel, model), replace(now, available=1), now).available == 0


def test_weights_that_do_not_fit_are_not_loaded(checkpoint: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    config = EngineConfig(str(checkpoint), "cpu", "float32", slots=0)
    with pytest.raises(EngineOutOfMemory, match=r"needs at least .* in float32, and 1 MiB of 64 are available"):
        load(config, lambda share, what: steps.append(what), limited(tmp_path, 64 * MIB, 63 * MIB))
    assert not any("warming up" in step for step in steps)


def test_configured_slots_that_do_not_fit_are_used_with_a_warning(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert loaded(checkpoint, limited(tmp_path / "large"), slots=3).slots == 3
    assert not [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert loaded(checkpoint, limited(tmp_path / "small", 160 * MIB), slots=14).slots == 14
    (warning,) = (each.message for each in caplog.records if each.levelno == logging.WARNING)
    assert warning.startswith("14 slots are configured, but they do not fit: a slot takes ")
    assert warning.endswith("use fewer slots")


def test_workers_share_the_memory(checkpoint: Path, tmp_path: Path) -> None:
    limits = limited(tmp_path, 4 * GIB)
    assert loaded(checkpoint, limits, workers=2).voice_cache_bytes < loaded(checkpoint, limits).voice_cache_bytes
    with pytest.raises(EngineOutOfMemory, match="for 64 workers"):
        loaded(checkpoint, limits, workers=64)
