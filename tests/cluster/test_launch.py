"""Joining a Ray cluster: an address where nothing listens is named at once."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from app.cli.exit_status import ExitStatus
from app.cli.main import main
from app.settings import Settings
from tests.cluster.ray_modules import ray_module

launch = ray_module("cluster.launch")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_an_address_where_nothing_listens_is_named(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{unused_port}"
    assert main(["cluster", "status", "--address", address]) == ExitStatus.UNREACHABLE
    assert f"no Ray cluster at {address}: " in capsys.readouterr().err


@pytest.mark.usefixtures("settings")
def test_a_start_says_what_it_waits_for(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{unused_port}"
    assert main(["cluster", "up", "--address", address]) == ExitStatus.UNREACHABLE
    assert capsys.readouterr().err.startswith(f"Joining the Ray cluster at {address}.\n")


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port"])
def test_an_address_without_host_or_port_is_named(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "status", "--address", address]) == ExitStatus.UNREACHABLE
    assert f"no Ray cluster at {address}: it is not HOST:PORT" in capsys.readouterr().err


def test_replicas_find_files_from_other_working_directories(settings: Settings) -> None:
    relative = settings.model_copy(update={"voices_dir": Path("voices"), "model_path": "models/csm-mini"})
    absolute = launch.with_absolute_paths(relative)
    assert absolute.voices_dir == Path.cwd() / "voices"
    assert absolute.model_path == str(Path.cwd() / "models/csm-mini")
    assert launch.with_absolute_paths(relative.model_copy(update={"model_path": "fake"})).model_path == "fake"
