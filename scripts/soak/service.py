"""The service under test: starting and stopping it, resources of its processes, and its metrics."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from random import Random

import psutil
from prometheus_client.parser import text_string_to_metric_families

from scripts.soak.http_client import KEY

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Resources:
    """Resources of a process: open file descriptors, threads, resident memory in MiB."""

    pid: int
    descriptors: int
    threads: int
    memory: float

    @staticmethod
    def of(process: psutil.Process) -> Resources:
        return Resources(
            process.pid, process.num_fds(), process.num_threads(), round(process.memory_info().rss / MIB, 1)
        )


class Service:
    """gunicorn with workers on the fake engine, in its own session."""

    def __init__(self, folder: Path, workers: int, slots: int) -> None:
        self.workers = workers
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._log = folder / "service.log"
        settings = {
            "API_KEY": KEY,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "MODEL_PATH": "fake:frame_seconds=0.01",
            "TTS_CROSSFADE_DURATION_MILLISECONDS": "0",  # so that each character is one frame, also across text chunks
            "DEVICE": "cpu",
            "WORKERS": str(workers),
            "CONCURRENT_REQUESTS_PER_WORKER": str(slots),
            "MAX_QUEUED_REQUESTS": "8",
            "VOICES_DIR": str(folder / "voices"),
            "PRELOADED_VOICES_DIR": str(folder / "preloaded-voices"),
            "LOG_FORMAT": "json",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli.main", "serve"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.master = psutil.Process(self._process.pid)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition. Raises RuntimeError with the log's end if it does not hold within `seconds`."""
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"{what} not reached within {seconds:g} s\n{self.log[-4000:]}")
            pause.wait(_PAUSE_SECONDS)

    # ---- processes

    def workers_by_age(self) -> list[psutil.Process]:
        """The worker processes, oldest first."""
        children = [each for each in self.master.children() if each.status() != psutil.STATUS_ZOMBIE]
        return sorted(children, key=lambda each: (each.create_time(), each.pid))

    def kill_one(self, rng: Random) -> int | None:
        """Send SIGKILL to a random worker except the oldest, so that one process runs for the whole test."""
        others = self.workers_by_age()[1:]
        if not others:
            return None
        victim = rng.choice(others)
        victim.kill()
        return victim.pid

    def resources(self) -> tuple[Resources, list[Resources]]:
        """Resources of the master and of each worker."""
        return Resources.of(self.master), [Resources.of(each) for each in self.workers_by_age()]

    def in_session(self) -> list[int]:
        """Ids of all running processes in the service's session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                continue
        return found

    # ---- HTTP

    def get(self, path: str) -> tuple[int, str]:
        """Status and text; status 0 if the connection fails."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"X-API-Key": KEY, "Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def metrics(self) -> Counter[str]:
        """Samples of /metrics summed over labels, and also by `name{reason}` where they have that label."""
        status, text = self.get("/metrics")
        if status != 200:
            raise RuntimeError(f"/metrics answered {status}")
        sums: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] += int(sample.value)
                if "reason" in sample.labels:
                    sums[f"{sample.name}{{{sample.labels['reason']}}}"] += int(sample.value)
        return sums

    def ready(self) -> bool:
        """True if all workers are ready and no request is active or queued."""
        if len(self.workers_by_age()) != self.workers or self.get("/readyz")[0] != 200:
            return False
        counts = self.metrics()
        idle = counts["csm_slots_active"] == counts["csm_requests_queued"] == 0
        return idle and _ready_workers(self.get("/metrics")[1]) == self.workers

    # ---- shutdown

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM. Returns the exit status and the seconds until exit."""
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60), time.monotonic() - started

    def destroy(self) -> None:
        """Kill every process of the session."""
        for pid in self.in_session():
            os.kill(pid, signal.SIGKILL)
        self._process.wait()


def _ready_workers(text: str) -> int:
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "csm_worker_state" and sample.labels["state"] == "ready"
    )
