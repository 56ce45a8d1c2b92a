"""One worker per GPU on four pretended ones: each sees its own alone, and one that fails leaves the others serving."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from tests.integration.pool_clients import Listener, health, spread, states
from tests.integration.shared import Server, serving

FAKES = Path(__file__).parent / "fake_gpus"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def serving_on_gpus(folder: Path, **settings: str) -> AbstractContextManager[Server]:
    return serving(
        folder,
        PYTHONPATH=os.pathsep.join((str(FAKES), str(ROOT))),
        MODEL_PATH=f"fake:frame_seconds=0.02,trouble={folder / 'gpu'}",
        CONCURRENT_REQUESTS_PER_WORKER="4",
        **settings,
    )


def gpus_seen(folder: Path) -> dict[int, str]:
    """CUDA_VISIBLE_DEVICES in each process that loaded an engine, by process id."""
    files = folder.glob("gpu-seen-*")
    return {int(path.name.rpartition("-")[2]): path.read_text(encoding="utf-8") for path in files}


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    made: list[Listener] = []
    yield made
    for each in made:
        each.leave()


def test_a_gpu_that_fails_is_named_and_the_others_serve(tmp_path: Path, listeners: list[Listener]) -> None:
    (tmp_path / "gpu-2").write_text("memory", encoding="utf-8")
    with serving_on_gpus(tmp_path) as server:
        server.wait_until(lambda: sorted(states(server)) == ["failed", "ready", "ready", "ready"])
        assert sorted(gpus_seen(tmp_path).values()) == ["0", "1", "2", "3"]
        status, body = health(server)
        assert (status, body["status"]) == (200, "degraded")
        assert body["tts_engines"].keys() == {"gpu_0", "gpu_1", "gpu_2", "gpu_3"}
        assert [name for name, each in body["tts_engines"].items() if each["error"]] == ["gpu_2"]
        assert "out of memory" in body["tts_engines"]["gpu_2"]["error"]

        listeners += [Listener(server).ask() for _ in range(6)]
        assert spread(listeners) == [2, 2, 2]
        assert {each.worker for each in listeners} == {"0", "1", "3"}

        (tmp_path / "gpu-2").unlink()
        (failed,) = [pid for pid, gpu in gpus_seen(tmp_path).items() if gpu == "2"]
        psutil.Process(failed).kill()
        server.wait_until(lambda: states(server) == ["ready"] * 4)
        assert sorted(gpus_seen(tmp_path).values()) == ["0", "1", "2", "2", "3"]
        listeners.append(Listener(server).ask())
        assert listeners[-1].worker == "2"


def test_workers_take_the_gpus_that_the_service_may_see(tmp_path: Path) -> None:
    with serving_on_gpus(tmp_path, CUDA_VISIBLE_DEVICES="3,1") as server:
        server.wait_until(lambda: states(server) == ["ready"] * 2)
        assert sorted(gpus_seen(tmp_path).values()) == ["1", "3"]
        assert len(server.workers()) == 2
