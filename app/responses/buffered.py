"""Buffered speech: all samples of one job, for responses that are sent whole."""

from __future__ import annotations

import time

import numpy as np

from engine import SAMPLE_RATE

from ..audio.encoders.base import Samples
from ..audio.postprocessing import make_effect
from ..audio.thread_pool import run_in_thread
from ..errors import Unprocessable
from ..observability.request_log import RequestRecord
from ..pool.pool import Pool
from ..schemas.speech import SpeechJob


async def collect_speech(
    pool: Pool, job: SpeechJob, record: RequestRecord, *, speed: float = 1.0, watermark_key: bytes | None = None
) -> tuple[Samples, str]:
    """All samples of a job, float32 (samples,) at 24 kHz after the effects, and the name of the engine.

    Raises what `Dispatcher.dispatch` raises, and Unprocessable if no audio is left.
    """
    record.voice = job.voice_name
    chunks: list[Samples] = []
    async with pool.dispatcher.dispatch(job, record) as speech:
        record.admit()
        started = time.monotonic()
        async for chunk in speech:
            chunks.append(chunk.samples)
            record.first_audio_seconds = record.first_audio_seconds or time.monotonic() - record.started
        record.speech_seconds = time.monotonic() - started
        engine = speech.engine_name
    samples = await run_in_thread(lambda: _apply_effects(chunks, speed, watermark_key))
    if not samples.size:
        raise Unprocessable("no audio is left of the speech", code="nothing_left")
    record.audio_seconds = samples.size / SAMPLE_RATE
    return samples, engine


def _apply_effects(chunks: list[Samples], speed: float, watermark_key: bytes | None) -> Samples:
    samples = np.concatenate([np.zeros(0, np.float32), *chunks])
    effect = make_effect(speed, watermark_key)
    return samples if effect is None else np.concatenate([effect.push(samples), effect.flush()])
