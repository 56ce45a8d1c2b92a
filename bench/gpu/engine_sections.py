"""Sections in this process: hardware limits, start, frames, kernels, prompts, seeds and listeners of the engine."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import SpeechRequest
from engine.codec.decoder import PLAIN, Operators
from engine.context import Prefill
from engine.cuda_streams import StreamPriority
from engine.engine_core import CsmEngine
from engine.frame_pipeline import CAPTURED_MODE
from engine.loading import load, moshi_streaming
from engine.model.graphs import Bucket, CudaGraphCapturer
from engine.model_runner import ModelRunner, SamplingParams
from engine.prompt_packing import PromptPiece
from engine.random_checkpoint import FULL, TINY
from engine.types import SAMPLE_RATE

from ..frame import floor_seconds, measure, prepare
from ..machine import matmul_rate, measure_bandwidth, median_seconds, synchronize
from .checkpoint import draw_checkpoint
from .kernels import by_kind, census_of
from .session import Session

TEXT = "The quick brown fox jumps over the lazy dog near the bank of the river."
_SEED_FRAMES = 24
_LONGEST_KERNELS = 45  # by name, in the census file


def limits(session: Session) -> None:
    """Memory bandwidth and rate of matrix products, for the floors."""
    if session.plan.size == "tiny":
        return
    bandwidth = measure_bandwidth(session.device)
    rate = matmul_rate(session.device, torch.bfloat16)
    session.recorder.add(
        "limits", read_gb_per_second=bandwidth.read / 1e9, copy_gb_per_second=bandwidth.copy / 1e9, tflops=rate / 1e12
    )


def checkpoint(session: Session) -> None:
    full = session.plan.size == "full"
    nbytes = draw_checkpoint(
        session.folder, FULL if full else TINY, session.device, torch.bfloat16 if full else torch.float32
    )
    session.recorder.add("checkpoint", size=session.plan.size, bytes=nbytes)


def load_engine(session: Session) -> None:
    started = time.perf_counter()
    session.loaded = load(session.config, lambda share, what: None)
    reserved = torch.cuda.memory_reserved(session.device) if session.cuda else 0
    session.recorder.add(
        "load", seconds=time.perf_counter() - started, reserved_bytes=reserved, **session.loaded.detail
    )


def frames(session: Session) -> None:
    """Milliseconds per frame by rows: in all, overlapped with the codec, and of each part, beside the floor."""
    runner, plan = session.loaded.runner, session.plan
    tiny = plan.size == "tiny"
    bandwidth = 1e10 if tiny else measure_bandwidth(session.device).best
    rate = 1e12 if tiny else matmul_rate(session.device, runner.model.dtype)
    for rows, context in (*((rows, plan.context) for rows in plan.rows), (plan.rows[-1], plan.long_context)):
        measured = measure(runner, rows, context, rounds=5 if session.cuda else 2)
        session.recorder.add(
            "frame",
            rows=rows,
            context=context,
            graph=measured["graph"],
            whole_ms=measured["seconds"] * 1e3,
            overlapped_ms=measured["overlapped_seconds"] * 1e3,
            step_ms=measured["step_seconds"] * 1e3,
            codec_ms=measured["codec_seconds"] * 1e3,
            floor_ms=floor_seconds(runner, rows, context, bandwidth, rate) * 1e3,
        )


def codec(session: Session) -> None:
    """Milliseconds of the codec's frame by rows: as chosen at load, with PyTorch's operators, and moshi's own decoder.

    On a GPU each is a CUDA graph; moshi captures its own.
    """
    for rows in session.plan.rows:
        generator = torch.Generator(session.device).manual_seed(rows)
        runner = session.loaded.runner
        size = (rows, runner.model.config.codebooks)
        codes = torch.randint(runner.codec.codebook_size, size, generator=generator, device=session.device)
        chosen = runner.codec.decoder.operators
        chosen_ms, actual = _codec_frame(session, codes, chosen)
        plain_ms, expected = _codec_frame(session, codes, PLAIN)
        with moshi_streaming(session.config, rows) as decode, torch.inference_mode():
            moshi_ms = median_seconds(partial(decode, codes), session.device, 20 if session.cuda else 2) * 1e3
        session.recorder.add(
            "codec",
            rows=rows,
            kernels=chosen is not PLAIN,
            chosen_ms=chosen_ms,
            plain_ms=plain_ms,
            moshi_ms=moshi_ms,
            difference=float((actual - expected).abs().max() / expected.abs().max()),
        )


def _codec_frame(session: Session, codes: Tensor, operators: Operators) -> tuple[float, Tensor]:
    """Milliseconds of a frame, and the samples of the first after a reset."""
    decoder, device = session.loaded.runner.codec.decoder, session.device
    before, decoder.operators = decoder.operators, operators
    active = torch.ones(len(codes), dtype=torch.bool, device=device)
    state = decoder.allocate(len(codes))
    try:
        with torch.inference_mode():
            samples: Tensor = decoder(codes, active, state)

            def frame() -> None:
                decoder(codes, active, state)

            replay = CudaGraphCapturer(device, StreamPriority.CODEC).capture(frame) if session.cuda else frame
            return median_seconds(replay, device, 20 if session.cuda else 2) * 1e3, samples
    finally:
        decoder.operators = before


def census(session: Session) -> None:
    """Kernels of the model's step and of the codec's, by kind; by name in a file of its own."""
    runner, plan = session.loaded.runner, session.plan
    pipeline = runner.frames
    with session.recorder.beside("census").open("w", encoding="utf-8") as file, torch.inference_mode():
        for rows in sorted({plan.rows[0], plan.rows[len(plan.rows) // 2], plan.rows[-1]}):
            prepare(runner, rows, plan.context)
            bucket = pipeline.buckets.bucket_for(rows, plan.context)

            def step(bucket: Bucket = bucket) -> None:
                pipeline._step(bucket, CAPTURED_MODE)

            def codec(bucket: Bucket = bucket) -> None:
                if not pipeline.codec_graphs.replay(Bucket(bucket.rows)):
                    pipeline._decode(Bucket(bucket.rows))

            for part, work in (("step", step), ("codec", codec)):
                found = census_of(work, session.device)
                kinds = {kind: {"count": count, "ms": ms} for kind, (count, ms) in by_kind(found.kernels).items()}
                session.recorder.add(
                    "census",
                    part=part,
                    rows=rows,
                    kernels=found.count,
                    busy_ms=found.busy,
                    span_ms=found.span,
                    kinds=kinds,
                )
                file.write(f"== {part}, {rows} rows: {found.count} kernels, busy {found.busy:.3f} ms\n")
                for kernel in found.kernels[:_LONGEST_KERNELS]:
                    file.write(f"{kernel.milliseconds:9.3f} ms {kernel.count:5d} x  {kernel.name[:150]}\n")


def prompts(session: Session) -> None:
    """Prefill of one prompt, a restored voice and an encoded recording. host: the engine thread's share."""
    runner = session.loaded.runner
    rounds = 7 if session.cuda else 2
    for positions in session.plan.prompts:
        whole = median_seconds(lambda positions=positions: _prefill(runner, positions), session.device, rounds)  # type: ignore[misc]
        started = time.perf_counter()
        for _ in range(rounds):
            _prefill(runner, positions)
        host = (time.perf_counter() - started) / rounds
        synchronize(session.device)
        session.recorder.add("prefill", positions=positions, whole_ms=whole * 1e3, host_ms=host * 1e3)
    saved = runner.copy_kv(0, session.plan.prompts[-1])

    def restore() -> None:
        runner.restore_kv(1, saved)
        runner.prefill([])

    restored = median_seconds(restore, session.device, rounds)
    session.recorder.add("restore", positions=session.plan.prompts[-1], bytes=saved.nbytes, whole_ms=restored * 1e3)
    recording = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE * (10 if session.cuda else 1)).astype(np.float32)
    started = time.perf_counter()
    runner.encode(recording, SAMPLE_RATE)
    first = time.perf_counter() - started
    again = median_seconds(lambda: runner.encode(recording, SAMPLE_RATE), session.device, 2, warmups=0)
    session.recorder.add(
        "encode", recording_seconds=len(recording) / SAMPLE_RATE, first_ms=first * 1e3, whole_ms=again * 1e3
    )


def _prefill(runner: ModelRunner, positions: int) -> None:
    """One prompt of row 0, half text and half audio."""
    codes = np.zeros((positions - positions // 2, runner.model.config.codebooks), np.int64)
    runner.prefill([PromptPiece(0, Prefill(0, [[runner.model.end_of_text] * (positions // 2), codes]))])


def seeds(session: Session) -> None:
    """Whether a seed repeats its codes, alone and among other rows."""
    runner, rows = session.loaded.runner, session.plan.rows
    alone = _codes(runner, rows[0])
    session.recorder.add("seed.repeated", rows=rows[0], equal=bool((_codes(runner, rows[0]) == alone).all()))
    for count in rows[1:]:
        same = _codes(runner, count) == alone
        frames_equal = same.all(axis=1)
        session.recorder.add(
            "seed.among",
            rows=count,
            equal=bool(same.all()),
            equal_frames=int(frames_equal.argmin()) if not frames_equal.all() else len(same),
            equal_codes_of_the_first_frame=int(same[0].sum()),
        )


def _codes(runner: ModelRunner, rows: int) -> np.ndarray[Any, Any]:
    """Codes of row 0 among `rows` rows, (frames, codebooks). No row has a prompt."""
    for row in range(rows):
        runner.reset_row(row, SamplingParams(seed=100 + row, temperature_first=0.9, temperature=0.9, top_k=50))
        runner.start_row(row, 0)
    return np.array([runner.step(list(range(rows))).codes[0] for _ in range(_SEED_FRAMES)])


def listeners(session: Session) -> None:
    """Listeners of the engine in one event loop, as in the service but without HTTP, who arrive one by one."""
    engine = CsmEngine(session.loaded, session.config)
    try:
        engine.generate(SpeechRequest(TEXT, seed=1, max_frames=3, ignore_stop=True))
        for count, spread in session.plan.listeners:
            started = time.perf_counter()
            heard = np.array(asyncio.run(_listen_together(engine, count, spread, session.plan.frames)))
            took = time.perf_counter() - started
            first, underrun, seconds, audio = heard.T
            session.recorder.add(
                "listeners",
                listeners=count,
                arriving_over_seconds=spread,
                first_audio_p50_ms=float(np.percentile(first, 50)) * 1e3,
                first_audio_p95_ms=float(np.percentile(first, 95)) * 1e3,
                underrun_p99_ms=float(np.percentile(underrun, 99)) * 1e3,
                slowest_share_of_real_time=float((seconds / audio).max()),
                audio_seconds_per_second=float(audio.sum()) / took,
            )
    finally:
        engine.close()


async def _listen_together(
    engine: CsmEngine, count: int, spread: float, frames: int
) -> list[tuple[float, float, float, float]]:
    return await asyncio.gather(*(_listen(engine, seed, frames, spread * seed / count) for seed in range(count)))


async def _listen(engine: CsmEngine, seed: int, frames: int, arrives: float) -> tuple[float, float, float, float]:
    """Seconds until the first audio, the worst underrun, and the seconds that `frames` took and last."""
    await asyncio.sleep(arrives)
    started = time.perf_counter()
    first, audio, worst = 0.0, 0.0, 0.0
    async for chunk in engine.stream(SpeechRequest(TEXT, seed=seed, max_frames=frames, ignore_stop=True)):
        now = time.perf_counter()
        if len(chunk.samples):
            first = first or now
            worst = max(worst, now - first - audio)
            audio += len(chunk.samples) / SAMPLE_RATE
    return first - started, worst, time.perf_counter() - first, audio
