"""Status queries to the service under test, and starting and stopping one."""

from __future__ import annotations

import http.client
import json
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from ..module_path import ROOT, module_path
from .trial import Address

TINY = "tiny"
_POLL_SECONDS = 0.2
_STOP_SECONDS = 45.0  # the service drains streams for 30


class ServerError(Exception):
    """The service is unreachable, not ready, or denies access."""


def get(address: Address, path: str, timeout: float = 10.0) -> tuple[int, Any]:
    """GET a path: status and parsed JSON. Raises OSError if the connection fails."""
    with closing(http.client.HTTPConnection(address.host, address.port, timeout=timeout)) as connection:
        connection.request("GET", path, headers={"X-API-Key": address.key} if address.key else {})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else None


def system_status(address: Address) -> dict[str, Any]:
    """The service's /system-status. Raises ServerError with the remedy."""
    where = f"http://{address.host}:{address.port}"
    try:
        status, answer = get(address, "/system-status")
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"no service at {where} ({error}): start it, or use --serve fake") from None
    if status == 401:
        raise ServerError(f"{where} requires a key: set API_KEY in the environment or in .env")
    if status != 200 or not isinstance(answer, dict):
        raise ServerError(f"{where}/system-status answered {status}: is that csm-serve?")
    return answer


def wait_until_idle(address: Address, seconds: float) -> bool:
    """Wait until no request is active or queued. False if that takes longer than `seconds`."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while any(worker["active"] or worker["queued"] for worker in system_status(address)["workers"]):
        if time.monotonic() > deadline:
            return False
        pause.wait(_POLL_SECONDS)
    return True


@contextmanager
def running_server(model: str, settings: Mapping[str, str], start_seconds: float) -> Iterator[Address]:
    """Run the service as a real process on a free loopback port, and stop it at the end. As `running_process`."""
    with running_process(["serve"], model, settings, start_seconds) as (address, _):
        yield address


@contextmanager
def running_process(
    command: Sequence[str], model: str, settings: Mapping[str, str], start_seconds: float
) -> Iterator[tuple[Address, psutil.Process]]:
    """Run a command of csm-serve that serves, on a free loopback port, and stop it at the end.

    command: its arguments. model: `fake` (with options of engine.fake_options), `tiny` (a small random checkpoint) or a
    MODEL_PATH. settings: further environment variables. Raises ServerError if it is not ready within `start_seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if model == TINY:
            subprocess.run(
                [sys.executable, "-m", "engine.random_checkpoint", str(folder / "model")], cwd=ROOT, check=True
            )
            model = str(folder / "model")
        elif Path(model).is_dir():
            model = str(Path(model).resolve())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = Address("127.0.0.1", free.getsockname()[1], secrets.token_hex(16))
        environment = {
            "API_KEY": address.key,
            "HOST": address.host,
            "PORT": str(address.port),
            "MODEL_PATH": model,
            "VOICES_DIR": str(folder / "voices"),
            "PRELOADED_VOICES_DIR": str(folder / "preloaded-voices"),
            "PYTHONPATH": module_path(),
            **settings,
        }
        # `env` adds these to the current environment; the folder has no .env file.
        with_settings = ["env", *(f"{key}={value}" for key, value in environment.items())]
        log = folder / "service.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*with_settings, sys.executable, "-m", "app.cli.main", *command],
                cwd=folder,
                stdout=output,
                stderr=output,
            )
        try:
            _wait_until_ready(address, process, log, start_seconds)
            yield address, psutil.Process(process.pid)
        finally:
            _stop(process)


def _wait_until_ready(address: Address, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while True:
        try:
            status, answer = get(address, "/health")
        except (OSError, http.client.HTTPException):
            status, answer = 0, None
        if status == 200:
            return
        if process.poll() is not None or status == 500 or time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise ServerError(f"the service is not ready within {seconds:.0f} s: {answer}\nIts log ends:\n{tail}")
        pause.wait(_POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, wait, then kill whatever is left of the process tree."""
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in descendants:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
