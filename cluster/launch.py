"""Starts the application on a Ray cluster, and reads its state."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any

# Before Ray is imported: it reports usage to its makers unless told not to.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Where a token lies, Ray's clusters ask for it; Ray itself shows it to those that it finds, but not to a given address.
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or Path("~/.ray/auth_token").expanduser().exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray import serve

from app.settings import Settings

from .deployment import application
from .options import APP_NAME, DEPLOYMENT_NAME, deployment_options

_DESCRIBE_SECONDS = 10.0
_CONNECT_SECONDS = 5.0


def connect(address: str | None) -> None:
    """Join a Ray cluster; None starts one of this machine, which ends with this process.

    Raises ConnectionError if there is none at the address.
    """
    if address not in (None, "auto"):
        _check_listening(address)
    ray.init(address=address or "local", include_dashboard=None if address else False, log_to_driver=not address)


def _check_listening(address: str) -> None:
    """Ray itself tries for minutes, and says little."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConnectionError("it is not HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(str(error)) from error


def has_gpus() -> bool:
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return bool(resources.get("GPU", 0) > 0)


def deploy(settings: Settings, *, gpus: int, replicas: int | None, proxies: str) -> None:
    """Start or update the application and wait until it speaks. Raises RuntimeError if it cannot start.

    proxies: EveryNode (each machine with a replica listens on HOST and PORT) or HeadOnly. Fixed by the first start.
    """
    serve.start(proxy_location=proxies, http_options={"host": settings.host, "port": settings.port})
    options = deployment_options(settings, gpus=gpus, replicas=replicas)
    serve.run(application(options, with_absolute_paths(settings)), name=APP_NAME, route_prefix="/")


def shutdown() -> None:
    """End the application, after its streams, and leave the cluster."""
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def status() -> dict[str, Any]:
    """State of the application, its message, and each replica's description."""
    app = serve.status().applications.get(APP_NAME)
    if app is None:
        return {"status": "NOT_STARTED", "message": "", "replicas": []}
    replicas: list[dict[str, Any]] = []
    if str(app.status.value) == "RUNNING":
        handle = serve.get_deployment_handle(DEPLOYMENT_NAME, APP_NAME)
        answers = handle.broadcast("describe").results(timeout_s=_DESCRIBE_SECONDS, return_exceptions=True)
        replicas = [each for each in answers if not isinstance(each, BaseException)]
    return {"status": app.status.value, "message": app.message, "replicas": replicas}


def with_absolute_paths(settings: Settings) -> Settings:
    """The settings for processes in other working directories, of machines that see the same files."""
    changed: dict[str, Any] = {name: value.absolute() for name, value in settings if isinstance(value, Path)}
    model = settings.model_path
    if model is not None and Path(model).exists():
        changed["model_path"] = str(Path(model).absolute())
    return settings.model_copy(update=changed)


def quiet() -> None:
    """Serve logs each step of the controller to the terminal of whoever asks."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
