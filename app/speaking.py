"""What every route that speaks does: reserve a slot, find the voice, begin, and leave nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread

from engine import EngineError, SpeechStream

from .engine_host import EngineHost
from .errors import from_engine
from .schemas import Order


@asynccontextmanager
async def speak(host: EngineHost, order: Order) -> AsyncIterator[SpeechStream]:
    """The speech of an order. Its slot is taken before any work is done, and is free when the context ends.

    Raises Unavailable, Busy, UnknownVoice, and what an EngineError before the first audio is answered with.
    """
    engine = host.engine
    async with host.admission.reserve(order.permits):
        try:
            # A client that leaves must not wait for a voice that is being made.
            casting = await anyio.to_thread.run_sync(host.cast, order.voice_id, abandon_on_cancel=True)
            stream = engine.stream(order.cast(casting))
        except EngineError as error:
            raise from_engine(error) from error
        with stream:
            yield stream
