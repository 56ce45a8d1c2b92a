"""The tasks that go on beside a conversation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.websockets import WebSocketDisconnect

from ..errors import ServiceError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ConversationTasks:
    """Keeps tasks until they end. The failure of one is read by whoever waits for it; an unexpected one is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel what still runs, and wait for its end."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, (ServiceError, WebSocketDisconnect)):
            _log.error("a task of a conversation failed", exc_info=error)
