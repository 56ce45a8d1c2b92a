"""Decides whether one persistent kernel computes the depth decoder of fused steps: for few rows, where it is right.

Its sums have another order than those of the fused kernels, so a row would get other bits where a step has more rows
than the kernel can take. That would break a seed's promise, so it is used only where no step has more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from .csm import CsmModel, StepState
from .fused_frames import FusedCheck, FusedStep, contrived_state
from .graphs import GraphCapturer
from .persistent.depth import KernelShape, PersistentDepth
from .persistent.packing import MAX_ROWS, unsupported
from .persistent.trial import Trial

log = logging.getLogger(__name__)

_CAPABILITY = (9, 0)  # copies into shared memory that count their bytes


def use_persistent_depth(
    model: CsmModel, state: StepState, step: FusedStep, rows: Sequence[int], context: int,
    capturer: Callable[[], GraphCapturer],
) -> None:  # fmt: skip
    """Set the step's `persistent` if the kernel is right here in every bucket, and faster; otherwise log why not.

    rows: of the buckets, ascending; the step is used in all of them. context: of a bucket. Only while no row is active.
    Raises torch.OutOfMemoryError, and any error of a launch that ends the process's use of the GPU: the start after it
    does not try the kernel again.
    """
    if rows[-1] > MAX_ROWS or torch.cuda.get_device_capability(model.device) < _CAPABILITY:
        return
    reason = unsupported(model.config, model.sampled_vocab, model.dtype, model.heads)
    if reason:
        log.info("the persistent kernel is not used: %s", reason)
        return
    trial = Trial.of(model.device)
    if trial.broken_off:
        log.warning(
            "the persistent kernel is not used: a start broke off while it tried it; to try again remove %s", trial.path
        )
        return
    trial.begin()
    try:
        persistent = build(model, state)
        fault = persistent_fault(model, state, step, persistent, rows, context, capturer)
    except torch.OutOfMemoryError:
        trial.end()
        raise
    except Exception as error:  # no NVRTC, another GPU: the fused kernels give the same speech
        torch.cuda.synchronize(model.device)  # raises if nothing can be launched any more: the next start does without
        fault = repr(error)
    trial.end()
    if fault:
        log.warning("the persistent kernel is not used: %s", fault)
        return
    persistent.fail_loudly()
    step.persistent = persistent


def build(model: CsmModel, state: StepState) -> PersistentDepth:
    """The kernel for this GPU. Raises ImportError, ValueError or CudaError where it cannot run."""
    from .persistent.cuda_program import CooperativeKernel, cached_program, shared_memory_limit

    shape = KernelShape.of(model, state, shared_memory_limit())
    code = cached_program("depth.cu", shape.macros, torch.cuda.get_device_capability(model.device))
    return PersistentDepth(
        model, state, CooperativeKernel(code, "depth", shape.blocks, shape.threads, shape.shared_bytes)
    )


def persistent_fault(
    model: CsmModel, state: StepState, step: FusedStep, persistent: PersistentDepth, rows: Sequence[int], context: int,
    capturer: Callable[[], GraphCapturer],
) -> str:  # fmt: skip
    """What is wrong with the step in which this kernel computes the depth decoder; empty if nothing is."""
    with torch.inference_mode(), contrived_state(state):
        check = FusedCheck(model, state, step, context)
        before, step.persistent = step.persistent, None
        try:
            largest = rows[-1]
            chain = check.fused_seconds(largest, capturer())
            step.persistent = persistent
            for count in rows:
                fault = check.fault(count)
                if persistent.fault:
                    fault = f"a block has waited in vain for {persistent.fault}"
                if fault:
                    return f"{count} rows: {fault}"
            seconds = check.fused_seconds(largest, capturer())
            log.info("a step of %d rows: fused %.2f ms, persistent %.2f ms", largest, chain * 1e3, seconds * 1e3)
            return "" if seconds < chain else "the fused kernels are faster"
        finally:
            step.persistent = before
