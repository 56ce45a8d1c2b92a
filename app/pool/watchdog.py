"""Watchdog: ends a worker whose engine hangs or broke, so that the master starts a new one."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine_host import EngineHost
    from .http_host import HttpHost

_log = logging.getLogger(__name__)

CHECK_SECONDS = 0.5


class WorkerExit(IntEnum):
    """Exit status of a worker that ends itself. Never 3 or 4: with these gunicorn stops the whole service."""

    START_HUNG = 71
    ENGINE_HUNG = 72
    ENGINE_BROKE = 73
    BOOT_FAILED = 74


class Watchdog:
    """Checks an engine from a thread of its own, since a hang may block the event loop too.

    start_seconds: how long loading may make no progress. engine_seconds: how long generation may make none.
    report_failure: called with the reason before the process exits.
    exit_process: called with a WorkerExit; the default ends the process immediately.
    """

    def __init__(
        self,
        host: EngineHost | HttpHost,
        *,
        start_seconds: float,
        engine_seconds: float,
        report_failure: Callable[[str], None] = lambda reason: None,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._host = host
        self._start_seconds = start_seconds
        self._engine_seconds = engine_seconds
        self._report_failure = report_failure
        self._exit_process = exit_process
        self._parent = os.getppid()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_SECONDS):
            if (failure := self.check()) is not None:
                code, reason = failure
                _log.critical("%s: this worker exits with status %d and is restarted", reason, code)
                self._report_failure(reason)
                self._exit_process(code)
                return
            if os.getppid() != self._parent:
                _log.critical("the master is gone: this worker drains and exits")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def check(self) -> tuple[WorkerExit, str] | None:
        """The exit status and the reason if the engine can only be restarted; None while it works."""
        status, stalled = self._host.status(), self._host.stalled_seconds()
        if status.state == "loading" and stalled > self._start_seconds:
            return WorkerExit.START_HUNG, f"loading has made no progress for {stalled:.0f} s ({status.doing})"
        if status.state == "ready" and stalled > self._engine_seconds:
            return WorkerExit.ENGINE_HUNG, f"the engine has hung for {stalled:.0f} s with requests in progress"
        if self._host.broken:
            return WorkerExit.ENGINE_BROKE, f"the engine broke ({status.error})"
        return None
