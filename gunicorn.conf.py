"""gunicorn configuration: one worker for each GPU; the master never initializes CUDA."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from gunicorn.errors import HaltServer  # type: ignore[import-untyped]

try:
    from app.pool import exit_reasons, stopped_workers
    from app.pool.assignment import apply_worker_environment, assign_workers
    from app.pool.gpus import visible_gpus
    from app.pool.master import current_master
    from app.server.preflight import cannot_start, check
    from app.server.worker import ServiceLogger, ServiceWorker, master_seconds
    from app.settings_loader import SettingsError, load_settings
except ImportError as missing:  # instead of gunicorn's traceback
    sys.stderr.write(f"csm-serve cannot start: {missing} (the Python environment is not complete: `make install`)\n")
    raise SystemExit(1) from None


def _refuse(error: SettingsError) -> NoReturn:
    sys.stderr.write(f"{cannot_start(error)}\n")
    raise SystemExit(2) from None


try:
    _settings = load_settings()
    _master = current_master(assign_workers(_settings, visible_gpus(_settings.device, os.environ)))
except SettingsError as error:
    _refuse(error)

wsgi_app = "app.main:app"
bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in _settings.addresses]
worker_class = ServiceWorker
logger_class = ServiceLogger
workers = len(_master.assignments)
preload_app = False  # each worker has its own engine, and CUDA does not survive a fork
reload = _settings.debug
timeout = 120  # seconds without a heartbeat; importing torch may block the interpreter for long
graceful_timeout = master_seconds(_settings.graceful_timeout_seconds)
keepalive = 75  # longer than the idle timeout of common proxies, which then never write to a closed connection
loglevel = _settings.log_level.lower()
control_socket_disable = True  # else gunicorn listens on a socket in the home directory
accesslog = None  # the service logs each request itself, without its query string


def on_starting(server: Any) -> None:
    """Called once, not at a reload, when this process itself holds the addresses."""
    inherited = server.cfg.reuse_port or not {"GUNICORN_FD", "LISTEN_FDS"}.isdisjoint(os.environ)
    addresses = [] if inherited else [each for each in server.cfg.address if isinstance(each, tuple)]
    try:
        check(_settings, addresses)
    except SettingsError as error:
        _refuse(error)
    _master.open()


def when_ready(server: Any) -> None:
    exit_reasons.install(server)
    stopped_workers.install(server)


def pre_fork(server: Any, worker: ServiceWorker) -> None:
    worker.index = _master.assign()


def post_fork(server: Any, worker: ServiceWorker) -> None:
    context = _master.join(worker.index, worker)
    apply_worker_environment(context.assignment, os.environ)


def child_exit(server: Any, worker: ServiceWorker) -> None:
    _master.record_exit(worker.index, worker.pid, exit_reasons.exit_reason(worker.pid))
    if server.LISTENERS and (error := _master.fatal_error()):  # without listeners it is stopping
        raise HaltServer(cannot_start(error), 1)


def on_exit(server: Any) -> None:
    _master.close()


def worker_int(worker: ServiceWorker) -> None:
    """Called by the reloader; uvicorn exits on a signal only."""
    if _settings.debug:
        os.kill(os.getpid(), 15)
