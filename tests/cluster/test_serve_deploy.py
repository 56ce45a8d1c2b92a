"""Ray's own commands with the generated config: `ray start`, `serve deploy`, `serve status`, `serve shutdown`.

`make test-cluster` runs it, as tests.cluster.test_service.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.cluster.conftest import end_all, environ_of_ray, free_ports, settings_of_service
from tests.cluster.ray_modules import ray_module
from tests.integration.shared import KEY

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("CLUSTER_TESTS") != "all", reason="it takes half a minute: `make test-cluster` runs it"
    ),
    pytest.mark.timeout(240),
]
BIN = Path(sys.executable).parent


class RayHead:
    """A Ray cluster of one node, started as its users do. Its replicas read their settings from its environment."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self._folder = folder
        self._log = folder / "ray.log"
        self._session = tempfile.mkdtemp(prefix="ray-")  # not in the folder: its sockets need a short path
        self.port, gcs, dashboard, agent, client = free_ports(5)
        self.address, self.dashboard = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        self._environ = {**environ_of_ray(folder), **settings_of_service(folder, self.port, checkpoint)}
        options = {
            "--port": gcs,
            "--dashboard-port": dashboard,
            "--dashboard-agent-listen-port": agent,
            "--ray-client-server-port": client,
            "--temp-dir": self._session,
            "--num-cpus": 2,
            "--object-store-memory": 80 << 20,
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [BIN / "ray", "start", "--head", "--block", *(f"{name}={value}" for name, value in options.items())],
                cwd=folder,
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until(self, holds: Callable[[], bool]) -> None:
        pause = threading.Event()
        while not holds():
            assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
            pause.wait(0.1)

    def get(self, url: str) -> httpx.Response | None:
        """None while nobody answers."""
        try:
            return httpx.get(url, headers={"X-API-Key": KEY}, timeout=30)
        except httpx.TransportError:
            return None

    def applications(self) -> dict[str, Any] | None:
        """Of Serve, by name, as the dashboard knows them; None before it does."""
        answer = self.get(f"{self.dashboard}/api/serve/applications/")
        return None if answer is None or answer.status_code != 200 else dict(answer.json()["applications"])

    def command(self, *command: str | Path) -> str:
        ran = subprocess.run(
            command, cwd=self._folder, env=self._environ, capture_output=True, text=True, timeout=100, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def end(self) -> None:
        end_all(self._process)
        shutil.rmtree(self._session, ignore_errors=True)


@pytest.fixture
def head(tmp_path: Path, checkpoint: Path) -> Iterator[RayHead]:
    ray_module("ray")
    started = RayHead(tmp_path, checkpoint)
    try:
        yield started
    finally:
        started.end()


def test_serve_deploy_runs_the_generated_config(head: RayHead, tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    csm_serve = (sys.executable, "-m", "app.cli.main", "cluster")
    config.write_text(head.command(*csm_serve, "config", "--cpu"), encoding="utf-8")
    address = ("--address", head.dashboard)
    head.wait_until(lambda: head.applications() is not None)
    head.command(BIN / "serve", "deploy", *address, str(config))

    def runs() -> bool:
        found = (head.applications() or {}).get("csm-serve", {})
        assert found.get("status") not in ("DEPLOY_FAILED", "UNHEALTHY"), found
        return found.get("status") == "RUNNING"

    head.wait_until(runs)
    service = f"http://127.0.0.1:{head.port}"
    head.wait_until(lambda: (answer := head.get(f"{service}/readyz")) is not None and answer.status_code == 200)
    spoken = head.get(f"{service}/tts/generate?text=Hello&format=raw_pcm&max_audio_length_ms=400&seed=1")
    assert spoken is not None
    assert (spoken.status_code, len(spoken.content)) == (200, 400 * 48), spoken.text
    ray_says = yaml.safe_load(head.command(BIN / "serve", "status", *address))
    assert ray_says["applications"]["csm-serve"]["deployments"]["Speech"]["replica_states"] == {"RUNNING": 1}
    ours = json.loads(head.command(*csm_serve, "status", "--address", head.address, "--json"))
    assert (ours["status"], [each["engine"] for each in ours["replicas"]]) == ("RUNNING", ["csm"])
    head.command(BIN / "serve", "shutdown", *address, "--yes")
    head.wait_until(lambda: head.applications() == {})
    assert head.get(f"{service}/readyz") is None
