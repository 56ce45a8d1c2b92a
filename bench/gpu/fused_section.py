"""Section "fused": the plain step and the fused kernels, with and without programmatic dependent launch, in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from engine.cuda_streams import StreamPriority
from engine.model.fused_frames import FusedCheck, FusedStep, contrived_state
from engine.model.fused_prefill import prefill_fault
from engine.model.graphs import CudaGraphCapturer
from engine.model.persistent.packing import MAX_ROWS
from engine.model.persistent_frames import build
from engine.model_runner import ModelRunner
from engine.prefill_pipeline import PASS_SIZES

from .session import Session


def fused(session: Session) -> None:
    """Milliseconds of a step as a graph, at short contexts, and what is wrong with the fused one, if anything is.

    first_seconds: of the first comparison, with the compilation of the kernels that are not in Triton's cache.
    """
    runner = session.loaded.runner
    session.recorder.add("step", computed_by=runner.frames.step_summary)
    if not session.cuda:
        session.recorder.add("fused", reason="fused kernels need a CUDA device")
        return
    context = runner.frames.buckets.contexts[0]
    with torch.inference_mode():
        for pdl, step in _steps(runner, session.device):
            with contrived_state(runner.state):
                check = FusedCheck(runner.model, runner.state, step, context)
                for rows in session.plan.rows:
                    started = time.perf_counter()
                    fault = check.fault(rows)
                    first = time.perf_counter() - started
                    line: dict[str, object] = {"rows": rows, "pdl": pdl, "fault": fault, "first_seconds": first}
                    if not fault:
                        capturer = CudaGraphCapturer(session.device, StreamPriority.FRAMES)
                        plain, fused_seconds = check.seconds(rows, capturer)
                        line |= {"plain_ms": plain * 1e3, "fused_ms": fused_seconds * 1e3}
                    session.recorder.add("fused", **line)
        _persistent(runner, session)
    _prefill(runner, session)


def _persistent(runner: ModelRunner, session: Session) -> None:
    """The step in which one kernel computes the depth decoder, for as many rows as it takes, beside the fused kernels.

    build_seconds: with NVRTC, unless the kernel is in Triton's cache.
    """
    from engine.model.fused.step import FusedStep as TritonStep

    started = time.perf_counter()
    try:
        persistent = build(runner.model, runner.state)
    except Exception as error:  # no NVRTC, or another GPU than it needs
        session.recorder.add("persistent", reason=repr(error))
        return
    session.recorder.add("persistent", build_seconds=time.perf_counter() - started)
    step = TritonStep(runner.model, runner.state, torch.cuda.get_device_capability(session.device) >= (9, 0))
    with contrived_state(runner.state):
        check = FusedCheck(runner.model, runner.state, step, runner.frames.buckets.contexts[0])
        for rows in range(1, MAX_ROWS + 1):
            step.persistent = persistent
            fault = check.fault(rows) or persistent.fault
            line: dict[str, object] = {"rows": rows, "fault": fault}
            if not fault:
                capturer = CudaGraphCapturer(session.device, StreamPriority.FRAMES)
                line["persistent_ms"] = check.fused_seconds(rows, capturer) * 1e3
                step.persistent = None
                line["fused_ms"] = check.fused_seconds(rows, capturer) * 1e3
            session.recorder.add("persistent", **line)


def _prefill(runner: ModelRunner, session: Session) -> None:
    """What is wrong with fused prefill passes; the times of both kinds are in lines of the log."""
    from engine.model.fused.prefill import FusedPrefill

    attention = runner.model.prompt_attention
    if attention is None:
        session.recorder.add("fused.prefill", reason="there is no attention kernel for prompts")
        return
    passes = FusedPrefill(runner.model, runner.state.backbone, attention, PASS_SIZES[-1])
    capturer = CudaGraphCapturer(session.device, StreamPriority.PREFILL)
    fault = prefill_fault(runner.model, runner.state, passes, attention, PASS_SIZES, capturer)
    session.recorder.add("fused.prefill", fault=fault)


def _steps(runner: ModelRunner, device: torch.device) -> Iterator[tuple[bool, FusedStep]]:
    from engine.model.fused.step import FusedStep as TritonStep

    for pdl in (False, True) if torch.cuda.get_device_capability(device) >= (9, 0) else (False,):
        yield pdl, TritonStep(runner.model, runner.state, pdl)
