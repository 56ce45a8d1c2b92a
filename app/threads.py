"""Where work is done that would hold up the event loop: encoding, effects, large messages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_workshop = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="workshop")


async def in_thread(work: Callable[[], _T]) -> _T:
    """Do some milliseconds of work in a thread. Who is cancelled does not wait for it."""
    return await asyncio.get_running_loop().run_in_executor(_workshop, work)
