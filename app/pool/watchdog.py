"""Ends a worker that cannot get on by itself, so that the master puts a new one in its place."""

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

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


class WorkerExit(IntEnum):
    """With what a worker ends itself. Never 3 or 4: those make gunicorn stop the whole service."""

    START_HUNG = 71
    ENGINE_HUNG = 72
    ENGINE_BROKE = 73
    BOOT_FAILED = 74


class Watchdog:
    """Watches an engine from a thread of its own: what hangs may hold up the event loop too.

    start_seconds: how long loading may get nowhere. engine_seconds: how long speech may.
    end: called with why and with what; the default logs it and ends the process on the spot.
    """

    def __init__(
        self,
        host: EngineHost,
        *,
        start_seconds: float,
        engine_seconds: float,
        last_words: Callable[[str], None] = lambda why: None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._host = host
        self._start_seconds = start_seconds
        self._engine_seconds = engine_seconds
        self._last_words = last_words
        self._end = end
        self._parent = os.getppid()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            if (verdict := self.look()) is not None:
                code, why = verdict
                _log.critical("%s: this worker ends itself (%d) and is started again", why, code)
                self._last_words(why)
                self._end(code)
                return
            if os.getppid() != self._parent:
                _log.critical("the master is gone: this worker drains and leaves")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def look(self) -> tuple[WorkerExit, str] | None:
        """What is wrong for good, if anything is."""
        status, stalled = self._host.status(), self._host.stalled_seconds()
        if status.state == "loading" and stalled > self._start_seconds:
            return WorkerExit.START_HUNG, f"loading has got nowhere for {stalled:.0f} s ({status.doing})"
        if status.state == "ready" and stalled > self._engine_seconds:
            return WorkerExit.ENGINE_HUNG, f"the engine has hung for {stalled:.0f} s with speech to make"
        if self._host.broken:
            return WorkerExit.ENGINE_BROKE, f"the engine broke ({status.error})"
        return None
