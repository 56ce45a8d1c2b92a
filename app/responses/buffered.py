"""Speech that is answered whole: gathered, finished, and dropped at once if its client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
from starlette.types import Receive

from engine import SAMPLE_RATE

from ..audio.encoders.base import Samples
from ..audio.postprocessing import make_effect
from ..audio.thread_pool import run_in_thread
from ..errors import ServiceError, Unprocessable
from ..observability.request_log import RequestRecord
from ..pool.pool import Pool
from ..schemas.speech import SpeechJob
from ..speaking import speak

_T = TypeVar("_T")


class ClientDisconnected(ServiceError):
    """Nobody is there to be answered."""

    status = 499  # as others log it: the client closed the request
    code = "client_left"


async def cancel_on_disconnect(receive: Receive, record: RequestRecord, work: Coroutine[Any, Any, _T]) -> _T:
    """Do work for as long as its client is there: a client that leaves cancels it. Raises ClientLeft."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_it_leaves(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            record.outcome = "left"
            raise ClientDisconnected("the client left")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
    return working.result()


async def _until_it_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def collect_speech(
    pool: Pool, job: SpeechJob, record: RequestRecord, *, speed: float = 1.0, key: bytes | None = None
) -> tuple[Samples, str]:
    """All samples of an order, at a speed and marked with a key, and the name of the engine that spoke.

    Raises what `speak` raises, and Unprocessable if nothing is left to hear.
    """
    record.voice = job.voice_id or "default"
    parts: list[Samples] = []
    async with speak(pool, job) as speech:
        record.admit()
        began = time.monotonic()
        async for chunk in speech:
            parts.append(chunk.samples)
            record.first_audio_seconds = record.first_audio_seconds or time.monotonic() - record.started
        record.speech_seconds = time.monotonic() - began
        engine = speech.engine_name
    samples = await run_in_thread(lambda: _finish(parts, speed, key))
    if not samples.size:
        raise Unprocessable("no audio is left of what was spoken", code="nothing_left")
    record.audio_seconds = samples.size / SAMPLE_RATE
    return samples, engine


def _finish(parts: list[Samples], speed: float, key: bytes | None) -> Samples:
    samples = np.concatenate([np.zeros(0, np.float32), *parts])
    effect = make_effect(speed, key)
    return samples if effect is None else np.concatenate([effect.push(samples), effect.flush()])
