"""HTTP host: takes the place of the engine host in a worker that has no engine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..observability.components import Components
from .engine_host import HostStatus
from .worker_registry import RestartDelay

_log = logging.getLogger(__name__)


class HttpHost:
    """Checks the components that a worker without an engine uses; there is nothing else to load.

    components, on_change, check_components: as of `EngineHost`.
    """

    broken = False

    def __init__(self, components: Components) -> None:
        self.components = components
        self.on_change: Callable[[], None] = lambda: None
        self.check_components: Callable[[], None] = lambda: None
        self._status = HostStatus("loading", doing="checking components")

    def status(self) -> HostStatus:
        return self._status

    def load(self) -> tuple[int, int, int]:
        """No slots, none active, no request queued."""
        return (0, 0, 0)

    def stalled_seconds(self) -> float:
        return 0.0

    def start(self, on_ready: Callable[[], None] | None = None, delay: RestartDelay | None = None) -> None:
        """Check the components in a thread. delay is ignored: nothing is loaded that could crash again."""
        threading.Thread(target=self._check, args=(on_ready,), name="check-components", daemon=True).start()

    def stop_admitting(self) -> None:
        """Only engines admit."""

    def close(self) -> None:
        self._status = HostStatus("closed")

    def _check(self, on_ready: Callable[[], None] | None) -> None:
        status = HostStatus("ready", 1.0, "ready")
        try:
            self.check_components()
        except Exception as error:  # of any kind: /health reports it
            _log.exception("this worker cannot serve HTTP")
            status = HostStatus("failed", doing="failed", error=str(error) or repr(error))
        if self._status.state == "closed":
            return
        self._status = status
        self.on_change()
        if on_ready is not None and status.state == "ready":
            on_ready()
