"""What every route that speaks does: find somebody who speaks, listen, and leave nothing behind."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from .pool.dispatcher import Speech
from .pool.pool import Pool
from .schemas.speech import SpeechJob


def speak(pool: Pool, order: SpeechJob) -> AbstractAsyncContextManager[Speech]:
    """The speech of an order, by the worker of the pool with the least to do: `async with speak(...) as speech`.

    Entering waits until there is a slot for it; leaving, at any time, frees that at once, whoever speaks.
    `async for chunk in speech` gives the audio, as engine.AudioChunk. With the first of it
    `speech.engine_name` and `speech.worker_id` are settled (X-TTS-Engine, X-Worker-ID).
    Entering and iterating raise ServiceError and nothing else: Unavailable, Busy, UnknownVoice, Unprocessable or
    EngineBroke. Before the first chunk that is an answer; behind it the speech is broken and has to be cut.
    """
    return pool.speak(order)
