"""Thread-to-event-loop bridge that coalesces wake-ups."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

Callback = Callable[[], object]


class LoopBridge:
    """Runs callbacks from other threads on one event loop, in the order they were submitted.

    Waking a loop is a system call, and each wake-up lets the loop's thread take the GIL from the caller. An engine that
    makes a frame for hundreds of listeners submits hundreds of callbacks: only the first wakes the loop, which then
    runs all of them. It takes no lock, so it may be called from finalizers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._callbacks: deque[Callback] = deque()
        self._wake_pending = False  # `_run` is scheduled and has not started

    def call(self, callback: Callback) -> bool:
        """Schedule a callback, from any thread. Returns False if the loop is closed: then it never runs."""
        self._callbacks.append(callback)
        if self._wake_pending and not self.loop.is_closed():
            return True
        self._wake_pending = True
        try:
            self.loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            self._callbacks.clear()
            return False
        return True

    def _run(self) -> None:
        self._wake_pending = False  # first: a callback that is submitted from now on must wake the loop again
        while self._callbacks:
            try:
                self._callbacks.popleft()()
            except Exception as error:  # a failing callback must not keep the others from running
                self.loop.call_exception_handler({"message": "a callback from another thread", "exception": error})


class _ThreadLocal(threading.local):
    bridge: LoopBridge | None = None


_local = _ThreadLocal()


def running_loop_bridge() -> LoopBridge:
    """The bridge into the running event loop, one per loop. Raises RuntimeError outside of a loop."""
    loop, bridge = asyncio.get_running_loop(), _local.bridge
    if bridge is None or bridge.loop is not loop:
        bridge = _local.bridge = LoopBridge(loop)
    return bridge
