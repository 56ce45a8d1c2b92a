from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.settings import Settings
from tests.cluster.ray_modules import ray_module
from tests.integration.shared import KEY

ROOT = Path(__file__).parents[2]
SECONDS = 60  # for what normally takes a few


def free_ports(count: int) -> list[int]:
    """Different ports: all are held until the last is found."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def environ_of_ray(folder: Path) -> dict[str, str]:
    """Without the developer's settings. folder: where Ray keeps its token."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "RAY_")) and name.lower() not in Settings.model_fields
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }


def settings_of_service(folder: Path, port: int, checkpoint: Path) -> dict[str, str]:
    return {
        "API_KEY": f"{KEY},second-key",
        "MODEL_PATH": str(checkpoint),
        "DEVICE": "cpu",
        "KOKORO_VOICES": "off",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "VOICES_DIR": str(folder / "voices"),
        "PRELOADED_VOICES_DIR": str(folder / "preloaded"),
    }


def end_all(process: subprocess.Popen[Any]) -> None:
    """End a process of a session of its own and all that it started: Ray starts some in further sessions."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait(timeout=SECONDS)


class RayCluster:
    """Ray nodes, and the service on them with a tiny random CSM: a server for the tests of one machine.

    port: of the proxy on the head node.
    """

    def __init__(self, folder: Path, nodes: int, checkpoint: Path) -> None:
        self._folder = folder
        self._log = folder / "cluster.log"
        (self.port,) = free_ports(1)
        self._environ = environ_of_ray(folder)
        self._settings = settings_of_service(folder, self.port, checkpoint)
        self._up: tuple[int | None, dict[str, str]] | None = None
        self._session: Path | None = None  # not in the folder: its sockets need a short path
        started = self._start(nodes)
        self.address, self.nodes = started["address"], started["nodes"]
        self._session = Path(started["session"])

    def _start(self, nodes: int) -> dict[str, Any]:
        """Ray gives up on a node whose agents have not started in 15 seconds, as on a busy machine: three attempts."""
        attempts = 3
        while True:
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "tests.cluster.nodes", str(nodes)],
                    cwd=ROOT,
                    env=self._environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
            try:
                return self._answer()
            except BaseException as error:
                self.kill()
                attempts -= 1
                if not attempts or not isinstance(error, AssertionError):
                    raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the commands and all replicas wrote."""
        assert self._session is not None
        replicas = [path for path in self._session.glob("logs/**/*") if path.is_file()]
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in [self._log, *replicas])

    def up(self, replicas: int | None = None, **settings: str) -> None:
        """Deploy with these settings, unless that is what runs."""
        if self._up == (replicas, settings):
            return
        size = [] if replicas is None else ["--replicas", str(replicas)]
        self.command("up", "--address", self.address, "--cpu", "--proxies", "head", *size, **settings)
        self._up = (replicas, settings)
        self.wait_until(lambda: self.get("/readyz") == 200)

    def status(self) -> dict[str, Any]:
        status = json.loads(self.command("status", "--address", self.address, "--json"))
        assert isinstance(status, dict)
        return status

    def command(self, *arguments: str, **settings: str) -> str:
        with self._log.open("ab") as log:
            ran = subprocess.run(
                [sys.executable, "-m", "app.cli.main", "cluster", *arguments],
                cwd=self._folder,
                env={**self._environ, **self._settings, **settings},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                timeout=240,
                check=False,
            )
        assert ran.returncode == 0, self._log.read_text(encoding="utf-8")
        return ran.stdout

    def kill_node(self, index: int) -> None:
        self._order(f"kill {index}")

    def _order(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        self.nodes = self._answer()["nodes"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # other lines are Ray's
            if line.startswith("{"):
                answer = json.loads(line)
                assert isinstance(answer, dict)
                return answer
        raise AssertionError(self._log.read_text(encoding="utf-8"))

    # ---- as tests.integration.shared.Server

    def wait_until(self, holds: Callable[[], bool]) -> None:
        pause = threading.Event()
        while not holds():
            assert self.process.poll() is None, self._log.read_text(encoding="utf-8")
            pause.wait(0.05)

    def get(self, path: str) -> int | None:
        try:
            with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
                connection.request("GET", path, headers={"X-API-Key": KEY})
                return connection.getresponse().status
        except OSError:
            return None

    def kill(self) -> None:
        end_all(self.process)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        if self._session is not None:
            shutil.rmtree(self._session, ignore_errors=True)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CSM. Written by another process: this one needs no torch."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    subprocess.run([sys.executable, "-m", "engine.random_checkpoint", str(folder)], cwd=ROOT, timeout=100, check=True)
    return folder


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[RayCluster]:
    ray_module("ray")
    started = RayCluster(tmp_path_factory.mktemp("cluster"), nodes=3, checkpoint=checkpoint)
    try:
        yield started
    finally:
        started.kill()
