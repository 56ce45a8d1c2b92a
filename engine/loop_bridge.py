"""The way from other threads into an event loop, which is woken once for all that comes before it looks."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

Callback = Callable[[], object]


class LoopBridge:
    """Has callbacks run on one event loop, in the order they were handed in.

    Waking a loop is a system call, and each lets the loop's thread take the interpreter away from the caller's. An
    engine that makes a frame for hundreds of listeners hands in hundreds of callbacks: it wakes the loop for the first
    of them, and that finds the others. No lock is taken, so it may be called from finalizers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._callbacks: deque[Callback] = deque()
        self._woken = False  # it will still look at what is handed in

    def call(self, callback: Callback) -> bool:
        """Have it run soon; from any thread. False if the loop is closed: then it never runs."""
        self._callbacks.append(callback)
        if self._woken and not self.loop.is_closed():
            return True
        self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            self._callbacks.clear()
            return False
        return True

    def _run(self) -> None:
        self._woken = False  # first: whoever comes from now on wakes it again
        while self._callbacks:
            try:
                self._callbacks.popleft()()
            except Exception as error:  # one must not keep the others from running
                self.loop.call_exception_handler({"message": "a callback from another thread", "exception": error})


class _Here(threading.local):
    bridge: LoopBridge | None = None


_here = _Here()


def running_loop_bridge() -> LoopBridge:
    """The waker of the event loop that this is called on."""
    loop, bridge = asyncio.get_running_loop(), _here.bridge
    if bridge is None or bridge.loop is not loop:
        bridge = _here.bridge = LoopBridge(loop)
    return bridge
