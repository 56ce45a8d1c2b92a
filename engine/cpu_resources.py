"""An engine on a CPU: its threads and its slots, within the cores and the memory that its container has."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from .capacity import CPU_LEAST_WORK, bytes_of_prefill, cpu_slots_that_fit
from .config import EngineConfig
from .errors import EngineOutOfMemory
from .machine_limits import MachineLimits, Memory
from .model.csm import CsmModel
from .model_runner import MAX_PREFILL_POSITIONS, MIN_ROWS

log = logging.getLogger(__name__)

_SMALL_MODEL = 128 << 20  # bytes
_VOICES_SHARE = 4  # of what is available on a CPU, known voices may take one part in so many


def choose_threads(model: CsmModel, workers: int, limits: MachineLimits) -> None:
    """One thread for a small model: its products are too short to be shared out. Else this worker's part of the cores,
    or fewer where OMP_NUM_THREADS says so.

    Threads that wait for each other a thousand times a frame lose far more than they win, and lose it all when
    somebody else wants the processors too, or the quota of a container stops one of them.
    """
    size = sum(parameter.nbytes for parameter in model.parameters())
    cores, most = limits.cores(), torch.get_num_threads()
    threads = 1 if size < _SMALL_MODEL else min(most, cores.threads(workers))
    if threads < most:
        torch.set_num_threads(threads)
    if size < _SMALL_MODEL:
        log.info("1 thread: the model is small (%d MiB)", size >> 20)
    else:
        log.info("%d threads: %s, for %d workers", threads, cores.reason, workers)


def check_memory(model: CsmModel, dtype: torch.dtype, row: int, config: EngineConfig, memory: Memory) -> None:
    """Before the weights are read: at the limit of a container the kernel ends the process, which then cannot say why.

    row: bytes of a row of the model's and the codec's state. Raises EngineOutOfMemory.
    """
    weights = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    needed = weights + MIN_ROWS * row + CPU_LEAST_WORK
    if needed > memory.available:
        raise EngineOutOfMemory(
            f"{config.model} needs at least {needed >> 20} MiB of memory in {str(dtype).removeprefix('torch.')}, and "
            f"{memory.available >> 20} MiB of {memory.total >> 20} are available ({memory.reason}): raise the limit, "
            "use fewer workers or a smaller model"
        )


def left_beside(model: CsmModel, before: Memory, now: Memory) -> Memory:
    """What is available once the weights are loaded.

    before: as it was until then. Weights that are used as the checkpoint's file has them stay in the page cache, which
    the kernel counts as available; reclaimed, they would be read from disk for each frame.
    """
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return replace(now, available=max(min(now.available, before.available - weights), 0))


def choose_slots(model: CsmModel, row: int, config: EngineConfig, memory: Memory) -> tuple[int, int]:
    """How many slots, and how many bytes known voices may take, once the weights are in memory.

    A number of slots that was asked for is taken, with a warning if it does not fit. Raises EngineOutOfMemory.
    """
    voices = min(config.voice_cache_bytes, memory.available // _VOICES_SHARE)
    prompt = bytes_of_prefill(model.config, model.dtype.itemsize, MAX_PREFILL_POSITIONS)
    fit = cpu_slots_that_fit(memory.available, row, voices + prompt, MIN_ROWS)
    room = (
        f"a slot takes {row >> 20} MiB, {memory.available >> 20} MiB of {memory.total >> 20} are available "
        f"({memory.reason})"
    )
    if config.slots:
        if config.slots * row > memory.available:
            log.warning("%d slots were asked for, and they do not fit: %s; use fewer slots", config.slots, room)
        return config.slots, voices
    if not fit:
        raise EngineOutOfMemory(f"not even one slot of {config.model} fits: {room}; raise the limit")
    log.info("%d slots: %s", fit, room)
    return fit, voices
