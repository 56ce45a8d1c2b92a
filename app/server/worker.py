"""A worker as gunicorn runs it: uvicorn, ended in order."""

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
from ..pool.master import IMPORTING, here
from ..pool.watchdog import Watchdog, WorkerExit
from ..settings import SettingsError, load_settings
from .websocket_protocol import SpeechWebSocketProtocol

if TYPE_CHECKING:
    from ..state import AppState  # the master loads no more of the application than it needs: DEBUG reloads the rest

_log = logging.getLogger(__name__)

_OPEN_FILES = 16_384
_LOOK_SECONDS = 0.05
_SIBLINGS_SECONDS = 0.3  # in which all workers have their signal, if the whole service is to stop
_MARGIN_SECONDS = 5  # to close the engine and leave, once the streams have ended or were cut


def master_seconds(graceful: int) -> int:
    """When the master kills a worker, for streams that may go on for `graceful` seconds."""
    return graceful + _MARGIN_SECONDS


def stream_seconds(master: int) -> int:
    """When a worker cuts its streams, if the master kills it at `master`."""
    return master - _MARGIN_SECONDS


def allow_many_connections() -> None:
    """Raise the number of open files to what this process may have: each listener is one, at a sibling's door two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _is_plain(error: Exception) -> bool:
    """What its one line says all of: no trace of a program helps there."""
    return isinstance(error, ImportError | SettingsError | OSError)


def _reason(error: Exception) -> str:
    """One line on why a worker cannot boot, short enough for the board."""
    told = " ".join(str(error).split())
    line = told if isinstance(error, SettingsError) else f"{type(error).__name__}: {told}"
    return (
        f"{line} (the Python environment is not complete: `make install`)" if isinstance(error, ImportError) else line
    )


class ServiceLogger(Logger):  # type: ignore[misc]  # it has no types
    """gunicorn's own lines, in the form of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configure_logging(load_settings())


class DrainingServer(Server):
    """uvicorn that says no before it hangs up: while streams end, whoever comes is told 503 and when to come back.

    Where other workers are ready to speak it stops to listen at once instead, and they are all there is to reach.
    """

    def __init__(self, config: Config, service: AppState) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        pool, began = self._service.pool, time.monotonic()
        limit = self.config.timeout_graceful_shutdown or 0
        pool.drain()
        for connection in self.server_state.connections:
            if isinstance(connection, SpeechWebSocketProtocol):
                connection.leave()
        listening = True
        while pool.busy and not self.force_exit and (spent := time.monotonic() - began) < limit:
            if listening and spent > _SIBLINGS_SECONDS and pool.others_ready:
                listening = False
                for server in self.servers:
                    server.close()
            await asyncio.sleep(_LOOK_SECONDS)
            await self.on_tick(0)  # gunicorn wants to hear from it, also while it drains
        self.config.timeout_graceful_shutdown = max(1, round(limit - (time.monotonic() - began)))
        await super().shutdown(sockets)


class ServiceWorker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn under gunicorn. The access log is the service's own: this one would write the query and its key."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **UvicornWorker.CONFIG_KWARGS,
        "http": TimeoutHttpProtocol,
        "ws": SpeechWebSocketProtocol,
        "ws_per_message_deflate": False,  # it would cost more than the audio itself, and save next to nothing of it
        "access_log": False,
        "server_header": False,
    }
    place: int | None = None  # set by pre_fork, in the master

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # UvicornWorker gives it gunicorn's handlers, and those are the root's. Of uvicorn.access nothing must come out.
        logging.getLogger("uvicorn.error").propagate = True
        self.config.timeout_graceful_shutdown = stream_seconds(self.cfg.graceful_timeout)
        self.config.ws_max_size = load_settings().json_limit

    def init_process(self) -> None:
        """Boot and run. What goes wrong in that is left on the board; the master tells it and starts another worker,
        or ends the service: see `Master.hopeless`."""
        allow_many_connections()
        try:
            super().init_process()
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code != Arbiter.WORKER_BOOT_ERROR:
                raise
            cause = error if isinstance(error, Exception) else self._start_error()
            _log.log(logging.DEBUG if _is_plain(cause) else logging.ERROR, "this worker cannot boot", exc_info=cause)
            seat = here()
            doing = IMPORTING if isinstance(cause, ImportError) else ""
            seat.registry.update(seat.index, "starting", doing=doing, error=_reason(cause))
            sys.exit(WorkerExit.BOOT_FAILED)

    def _start_error(self) -> Exception:
        """Why the application did not start: uvicorn only says that it did not."""
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
            last_words=service.pool.report_failure,
        )
        watchdog.start()
        # Their sockets and not gunicorn's wrappings of them: uvloop takes those for files, and closes them twice.
        await server.serve(sockets=[each.sock for each in self.sockets])
        watchdog.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, which the master sends on Ctrl-C: leave at once. UvicornWorker itself would not leave at all."""
        for _ in range(2):  # the first makes uvicorn leave, the second makes it wait for nobody
            signal.raise_signal(signal.SIGINT)
