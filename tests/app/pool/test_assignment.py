from __future__ import annotations

from pathlib import Path

import pytest

from app.pool.assignment import WorkerAssignment, apply_worker_environment, assign_workers
from app.settings import Settings
from app.settings_loader import SettingsError


def test_one_worker_for_each_gpu_or_one_on_a_cpu(settings: Settings) -> None:
    assert [(each.index, each.gpu) for each in assign_workers(settings, ["3", "1"])] == [(0, "3"), (1, "1")]
    assert [(each.index, each.gpu) for each in assign_workers(settings, [])] == [(0, None)]
    assert [each.workers for each in assign_workers(settings, ["3", "1"])] == [2, 2]
    assert [each.prints_banner for each in assign_workers(settings, ["0", "1", "2"])] == [True, False, False]


def test_workers_may_be_fewer_than_gpus_and_any_number_on_a_cpu(settings: Settings) -> None:
    three = settings.model_copy(update={"workers": 3})
    assert len(assign_workers(three, ["0", "1", "2", "3"])) == 3
    assert [each.workers for each in assign_workers(three, [])] == [3, 3, 3]
    with pytest.raises(SettingsError, match="WORKERS is 3, but 2 GPUs"):
        assign_workers(three, ["0", "1"])
    assert len(assign_workers(three.model_copy(update={"debug": True}), [])) == 1


def test_http_workers_come_after_the_engines_and_have_no_gpu(settings: Settings) -> None:
    split = settings.model_copy(update={"http_workers": 2})
    assigned = assign_workers(split, ["3", "1"])
    assert [(each.worker_id, each.gpu, each.has_engine, each.serves_http) for each in assigned] == [
        ("0", "3", True, False),
        ("1", "1", True, False),
        ("http-0", None, False, True),
        ("http-1", None, False, True),
    ]
    assert {each.workers for each in assigned} == {2}
    debugged = assign_workers(split.model_copy(update={"debug": True}), [])
    assert [(each.has_engine, each.serves_http) for each in debugged] == [(True, True)]


def test_a_gpu_worker_sees_only_its_gpu(tmp_path: Path) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b", "OMP_NUM_THREADS": "8", "XDG_CACHE_HOME": str(tmp_path)}
    apply_worker_environment(WorkerAssignment(1, "GPU-b"), environ)
    assert environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert environ["OMP_NUM_THREADS"] == "8"
    assert environ["MKL_NUM_THREADS"] == "1"
    assert environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "CUDA_DEVICE_ORDER" not in environ
    assert environ["TRITON_CACHE_DIR"] == str(tmp_path / "csm-serve/triton")


def test_gpus_are_numbered_in_the_drivers_order(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    apply_worker_environment(WorkerAssignment(1, "1"), environ)
    assert (environ["CUDA_VISIBLE_DEVICES"], environ["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")


def test_a_cpu_worker_keeps_its_environment() -> None:
    environ: dict[str, str] = {}
    apply_worker_environment(WorkerAssignment(0, None), environ)
    assert environ == {}
    assert (WorkerAssignment(2, "5").worker_id, WorkerAssignment(2, "5").unit, WorkerAssignment(0).unit) == (
        "2",
        "gpu_2",
        "cpu_0",
    )
