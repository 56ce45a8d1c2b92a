"""What a fake engine is asked to do: its timing, and its faults."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from .errors import CheckpointError

EXIT_STATUS = 70  # of a process that ends by the fault "exit"

FaultKind = Literal["raise", "memory", "break", "hang", "exit"]
_MARKER = re.compile(r"\[(raise|memory|break|hang|exit)(?:@(\d+))?\]")


@dataclass(frozen=True)
class Fault:
    """A fault in a request after a number of frames; 0 is before the first.

    raise: the request fails with EngineFailed, the others continue.
    memory: the same with EngineOutOfMemory.
    break: the engine fails for good, as after a CUDA error.
    hang: the engine thread makes no more frames, for any request, until the engine is closed.
    exit: the process ends at once with EXIT_STATUS.

    A text triggers it with `[raise]`, or `[raise@3]` for after 3 frames.
    """

    kind: FaultKind
    after_frames: int = 0

    @staticmethod
    def of(text: str) -> Fault | None:
        found = _MARKER.search(text)
        return Fault(found[1], int(found[2] or 0)) if found else None  # type: ignore[arg-type]  # the pattern allows no other


@dataclass(frozen=True)
class FakeOptions:
    """Behaviour of a FakeEngine; each field can be set in MODEL_PATH, as in `fake:frame_seconds=0.02,name=csm`.

    name: the engine's name.
    frame_seconds: between two frames of 80 ms; 0 is as fast as possible.
    first_frame_seconds: extra time of a request's first frame.
    stall_seconds, stall_after: after so many frames a request pauses for so long, once. These two and
        first_frame_seconds simulate a late engine, with the resolution of frame_seconds, which must be above 0.
    busy_seconds: CPU time of Python in the engine's thread for each step, as a real engine needs to launch its work.
    load_seconds: duration of loading.
    load_fails: loading raises CheckpointError.
    trouble: path of a file with one word, read at each load, that names a fault: fails (CheckpointError), memory
        (EngineOutOfMemory), exits (the process ends with EXIT_STATUS), hangs (for as long as it says so). Without
        the file loading succeeds.
    hold: path of a file with a number, read for each step: while it is there, no request makes more frames than that.
        Whoever changes it replaces the file.
    max_voice_seconds: limit on a voice prompt; 0 is none.
    hides_words: the engine does not tell when it says which word, as CSM does not.
    """

    name: str = "fake"
    frame_seconds: float = 0.0
    first_frame_seconds: float = 0.0
    stall_seconds: float = 0.0
    stall_after: int = 5
    busy_seconds: float = 0.0
    load_seconds: float = 0.0
    load_fails: bool = False
    trouble: str = ""
    hold: str = ""
    max_voice_seconds: float = 0.0
    hides_words: bool = False

    @staticmethod
    def parse(model: str) -> FakeOptions:
        """Parse `fake` or `fake:name=value,…`. Raises CheckpointError for an unknown name."""
        options = FakeOptions()
        types = {each.name: type(getattr(options, each.name)) for each in fields(FakeOptions)}
        for pair in filter(None, model.partition(":")[2].split(",")):
            name, _, value = pair.partition("=")
            if name not in types:
                raise CheckpointError(f"MODEL_PATH={model}: {name!r} is not one of {', '.join(types)}")
            parsed: Any = value == "true" if types[name] is bool else types[name](value)
            options = replace(options, **{name: parsed})
        return options
