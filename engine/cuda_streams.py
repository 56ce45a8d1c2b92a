"""Work that a device does in order, beside other such work. On a CPU all of it is done at once."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor


class StreamEvent:
    """A point in a lane's work."""

    def __init__(self, event: Any = None) -> None:
        self._event = event

    @property
    def completed(self) -> bool:
        return self._event is None or bool(self._event.query())

    def wait(self) -> None:
        """Until the device has come there. Lets other threads run."""
        if self._event is not None:
            self._event.synchronize()


COMPLETED = StreamEvent()


class StreamPriority(IntEnum):
    """Of two lanes that both have work, whose goes first. PyTorch keeps 32 streams for each, and hands them out in
    turn: no lane of one ever is a lane of another."""

    VOICES = 0
    PROMPTS = 1
    FRAMES = 2


class DeviceStream:
    """A CUDA stream, or on a CPU nothing."""

    def __init__(self, device: torch.device, urgency: StreamPriority) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device, priority=-urgency)  # type: ignore[no-untyped-call]

    def as_current(self) -> AbstractContextManager[Any]:
        """What is begun inside goes into this lane."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def wait_event(self, mark: StreamEvent) -> None:
        """What comes next in this lane waits for that point of another."""
        if self._stream is not None and mark._event is not None:
            self._stream.wait_event(mark._event)

    def record_event(self) -> StreamEvent:
        return COMPLETED if self._stream is None else StreamEvent(self._stream.record_event())

    def record_use(self, tensor: Tensor) -> None:
        """Made in another lane and read in this one: it is not to be freed before."""
        if self._stream is not None:
            tensor.record_stream(self._stream)
