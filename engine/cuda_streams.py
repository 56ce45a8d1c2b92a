"""CUDA streams and events behind one interface; on a CPU work runs synchronously and every event is complete."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor


class StreamEvent:
    """A recorded point in a stream's work."""

    def __init__(self, event: Any = None) -> None:
        self._event = event

    @property
    def completed(self) -> bool:
        """Whether the device has reached the event. Does not wait."""
        return self._event is None or bool(self._event.query())

    def wait(self) -> None:
        """Block until the device has reached the event. Other Python threads keep running."""
        if self._event is not None:
            self._event.synchronize()


COMPLETED = StreamEvent()


class StreamPriority(IntEnum):
    """Which of two streams with pending work goes first.

    PyTorch keeps 32 streams for each priority and hands them out in turn, so streams of two priorities never coincide.
    """

    VOICES = 0
    PREFILL = 1
    FRAMES = 2
    CODEC = 3  # above the next frame's step, which would otherwise delay samples that are due first


class DeviceStream:
    """A CUDA stream; on a CPU every method does nothing."""

    def __init__(self, device: torch.device, priority: StreamPriority) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device, priority=-priority)  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int | None:
        """The driver's stream: two objects may stand for the same one. None on a CPU."""
        return None if self._stream is None else int(self._stream.cuda_stream)

    def as_current(self) -> AbstractContextManager[Any]:
        """Context manager: work that is launched inside goes to this stream."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def wait_event(self, event: StreamEvent) -> None:
        """Later work in this stream waits for an event of another stream."""
        if self._stream is not None and event._event is not None:
            self._stream.wait_event(event._event)

    def record_event(self) -> StreamEvent:
        return COMPLETED if self._stream is None else StreamEvent(self._stream.record_event())

    def record_use(self, tensor: Tensor) -> None:
        """Keep the memory of a tensor from another stream until this stream has read it."""
        if self._stream is not None:
            tensor.record_stream(self._stream)


def upload(array: np.ndarray[Any, Any], target: Tensor) -> None:
    """Copy to a tensor of the same shape on the current stream, from pinned memory that PyTorch keeps until it is read.

    From pageable memory the host would wait for the whole stream, and every active row with it.
    """
    source = torch.from_numpy(array)
    target.copy_(source if target.device.type == "cpu" else source.pin_memory(), non_blocking=True)
