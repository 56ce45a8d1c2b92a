"""Threads, slots and voice cache of an engine on a CPU, within its container's cores and memory."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from .capacity import CPU_MIN_WORK_BYTES, cpu_slots_that_fit, prefill_bytes
from .config import EngineConfig
from .errors import EngineOutOfMemory
from .machine_limits import MachineLimits, Memory
from .model.csm import CsmModel
from .model_runner import MIN_ROWS
from .prefill_pipeline import MAX_PASS_TOKENS

log = logging.getLogger(__name__)

_SMALL_MODEL_BYTES = 128 << 20
_VOICE_CACHE_FRACTION = 4  # the voice cache takes at most 1 / this of the available memory


def choose_threads(model: CsmModel, workers: int, limits: MachineLimits) -> None:
    """Set PyTorch's threads: one for a small model, else this worker's share of the cores, or fewer by OMP_NUM_THREADS.

    A small model's matrix products are too short to parallelize: synchronizing threads a thousand times a frame costs
    far more than it gains, above all on a busy machine or when a container's quota throttles one of them.
    """
    size = sum(parameter.nbytes for parameter in model.parameters())
    cores, max_threads = limits.cores(), torch.get_num_threads()
    threads = 1 if size < _SMALL_MODEL_BYTES else min(max_threads, cores.threads(workers))
    if threads < max_threads:
        torch.set_num_threads(threads)
    if size < _SMALL_MODEL_BYTES:
        log.info("1 thread: the model is small (%d MiB)", size >> 20)
    else:
        log.info("%d threads: %s, for %d workers", threads, cores.reason, workers)


def check_memory(model: CsmModel, dtype: torch.dtype, row: int, config: EngineConfig, memory: Memory) -> None:
    """Check that the model fits, before its weights are read. Raises EngineOutOfMemory.

    At a container's limit the kernel kills the process, which then cannot log the reason.
    row: bytes of one row of the model's and the codec's state.
    """
    weights = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    needed = weights + MIN_ROWS * row + CPU_MIN_WORK_BYTES
    if needed > memory.available:
        raise EngineOutOfMemory(
            f"{config.model} needs at least {needed >> 20} MiB of memory in {str(dtype).removeprefix('torch.')}, and "
            f"{memory.available >> 20} MiB of {memory.total >> 20} are available ({memory.reason}): raise the limit, "
            "use fewer workers or a smaller model"
        )


def memory_after_loading(model: CsmModel, before: Memory, now: Memory) -> Memory:
    """The memory that is available after the weights were loaded.

    before: the memory before loading. Weights that are memory-mapped from the checkpoint stay in the page cache, which
    the kernel counts as available; if it were reclaimed, they would be read from disk for each frame.
    """
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return replace(now, available=max(min(now.available, before.available - weights), 0))


def choose_slots(model: CsmModel, row: int, config: EngineConfig, memory: Memory) -> tuple[int, int]:
    """The number of slots and the bytes of the voice cache, after the weights were loaded.

    A configured number of slots is used as it is, with a warning if it does not fit. Raises EngineOutOfMemory.
    """
    voice_cache = min(config.voice_cache_bytes, memory.available // _VOICE_CACHE_FRACTION)
    prefill = prefill_bytes(model.config, model.dtype.itemsize, MAX_PASS_TOKENS["cpu"])
    fit = cpu_slots_that_fit(memory.available, row, voice_cache + prefill, MIN_ROWS)
    reason = (
        f"a slot takes {row >> 20} MiB, {memory.available >> 20} MiB of {memory.total >> 20} are available "
        f"({memory.reason})"
    )
    if config.slots:
        if config.slots * row > memory.available:
            log.warning("%d slots are configured, but they do not fit: %s; use fewer slots", config.slots, reason)
        return config.slots, voice_cache
    if not fit:
        raise EngineOutOfMemory(f"not even one slot of {config.model} fits: {reason}; raise the limit")
    log.info("%d slots: %s", fit, reason)
    return fit, voice_cache
