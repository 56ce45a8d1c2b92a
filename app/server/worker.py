"""The gunicorn worker: uvicorn with graceful draining, timeouts and boot errors in the registry."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from uvicorn import Config, Server
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from ..middleware.timeouts import TimeoutHttpProtocol
from ..observability.logs import configure_logging
from ..pool.master import IMPORTING, current_context
from ..pool.watchdog import Watchdog, WorkerExit
from ..settings_loader import SettingsError, load_settings
from .websocket_protocol import SpeechWebSocketProtocol

if TYPE_CHECKING:
    from ..state import AppState  # not loaded by the master: DEBUG reloads the application

_log = logging.getLogger(__name__)

_OPEN_FILES = 16_384
_POLL_SECONDS = 0.05
_SIGNAL_SECONDS = 0.3  # by then all workers have the signal if the whole service stops
_ENGINE_SECONDS = 2  # that an engine outlasts the HTTP processes it speaks for, so that they cut streams, not it
_MARGIN_SECONDS = 5  # to close the engine and exit after the streams have ended or were cut


def master_seconds(graceful: int) -> int:
    """Seconds after which the master kills a worker, if streams may go on for `graceful` seconds."""
    return graceful + _MARGIN_SECONDS


def stream_seconds(master: int) -> int:
    """Seconds after which a worker cuts its streams, if the master kills it after `master` seconds."""
    return master - _MARGIN_SECONDS


def raise_open_files_limit() -> None:
    """Raise the limit of open files: a client takes one, or two with speech from another worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _is_plain(error: Exception) -> bool:
    """Its message is enough: a traceback would not help."""
    return isinstance(error, ImportError | SettingsError | OSError)


def _reason(error: Exception) -> str:
    """One line on why a worker cannot boot, for the registry."""
    message = " ".join(str(error).split())
    line = message if isinstance(error, SettingsError) else f"{type(error).__name__}: {message}"
    return (
        f"{line} (the Python environment is not complete: `make install`)" if isinstance(error, ImportError) else line
    )


class ServiceLogger(Logger):  # type: ignore[misc]  # it has no types
    """gunicorn's log records in the service's format."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configure_logging(load_settings())


class DrainingServer(Server):
    """Drains before it shuts down: while its streams end, new requests get 503 with Retry-After.

    If other workers are ready it stops listening instead, so that they get all new connections.
    """

    def __init__(self, config: Config, service: AppState) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        pool, started = self._service.pool, time.monotonic()
        limit = self.config.timeout_graceful_shutdown or 0
        pool.drain()
        for connection in self.server_state.connections:
            if isinstance(connection, SpeechWebSocketProtocol):
                connection.start_shutdown()
        listening = True
        while pool.busy and not self.force_exit and (spent := time.monotonic() - started) < limit:
            if listening and spent > _SIGNAL_SECONDS and pool.others_ready:
                listening = False
                for server in self.servers:
                    server.close()
            await asyncio.sleep(_POLL_SECONDS)
            await self.on_tick(0)  # gunicorn's heartbeat
        self.config.timeout_graceful_shutdown = max(1, round(limit - (time.monotonic() - started)))
        await super().shutdown(sockets)


class ServiceWorker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn under gunicorn. Its access log is off: it would write the query string with the key."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **UvicornWorker.CONFIG_KWARGS,
        "http": TimeoutHttpProtocol,
        "ws": SpeechWebSocketProtocol,
        "ws_per_message_deflate": False,  # compressing audio costs much CPU and saves almost nothing
        "access_log": False,
        "server_header": False,
    }
    index: int | None = None  # in the registry; set by pre_fork, in the master

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # UvicornWorker replaces its handlers by gunicorn's, which are the root's. uvicorn.access must stay silent.
        logging.getLogger("uvicorn.error").propagate = True
        self.config.timeout_graceful_shutdown = stream_seconds(self.cfg.graceful_timeout)
        self.config.ws_max_size = load_settings().json_limit

    def init_process(self) -> None:
        """Boot and run. A boot error is written to the registry; the master logs it and starts another worker, or ends
        the service: see `Master.fatal_error`."""
        raise_open_files_limit()
        try:
            super().init_process()
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code != Arbiter.WORKER_BOOT_ERROR:
                raise
            cause = error if isinstance(error, Exception) else self._start_error()
            _log.log(logging.DEBUG if _is_plain(cause) else logging.ERROR, "this worker cannot boot", exc_info=cause)
            context = current_context()
            doing = IMPORTING if isinstance(cause, ImportError) else ""
            context.registry.update(context.index, "starting", doing=doing, error=_reason(cause))
            sys.exit(WorkerExit.BOOT_FAILED)

    def _start_error(self) -> Exception:
        """The error of the application's startup, which uvicorn does not pass on."""
        failure = getattr(self.wsgi.state, "start_error", None)
        return failure if isinstance(failure, Exception) else RuntimeError("the application did not start")

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        service: AppState = self.wsgi.state.service
        server = DrainingServer(self.config, service)
        self._install_sigquit_handler()
        watchdog = Watchdog(
            service.host,
            start_seconds=service.settings.start_timeout_seconds,
            engine_seconds=service.settings.engine_timeout_seconds,
            report_failure=service.pool.report_failure,
        )
        watchdog.start()
        # The plain sockets: uvloop would treat gunicorn's wrappers as files and close them twice.
        sockets: list[socket.socket] = [each.sock for each in self.sockets]
        if not service.assignment.serves_http:
            for each in sockets:
                each.close()  # only in this process
            sockets = []
            self.config.timeout_graceful_shutdown += _ENGINE_SECONDS
        await server.serve(sockets=sockets)
        watchdog.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Exit immediately on SIGQUIT, which the master sends on Ctrl-C; UvicornWorker would not exit at all."""
        for _ in range(2):  # the first makes uvicorn exit, the second makes it drop its connections
            signal.raise_signal(signal.SIGINT)
