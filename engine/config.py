"""How an engine is to be built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import InvalidRequest

AUTO_SLOTS = 0  # as EngineConfig.slots
CPU_SLOTS = 4  # what that is on a CPU, if memory holds them
MAX_SLOTS = 512  # ... and at the most: one interpreter has to serve them all
FALLBACK_MODEL = "espeak-ng"  # as EngineConfig.model: the voice that needs no weights


@dataclass(frozen=True)
class EngineConfig:
    """What `load_engine` needs to know.

    model: a directory, a hub id such as "sesame/csm-1b", or "espeak-ng" for the fallback voice.
    device: "auto" (cuda where there is one), "cpu", "cuda", "cuda:N".
    dtype: "auto" (bfloat16, or float32 where the CPU is slow at bfloat16), "float32", "bfloat16", "float16".
    depth_weights: of the depth decoder, which reads them once a codebook: "auto" (as the other weights), or "int8",
        half the bytes of bfloat16, for codes that are not quite the same; `bench.depth_weights` measures both.
    slots: how many requests speak at once; AUTO_SLOTS: on a GPU as many as its memory holds and its speed carries,
        elsewhere CPU_SLOTS, or fewer if memory holds no more. What came of it is the engine's `slots`.
    workers: how many engines share this machine's cores and, on a CPU, its memory.
    compile: torch.compile on the frame step, and on a GPU the whole step as a graph, with attention that reads each
        row's live positions alone; "auto" is on for cuda and off for cpu.
    audio_queue_slices: how many emitted slices a slot may be ahead of its reader before it is held.
    voice_cache_bytes: bound on the memory that prompts of known voices take; least recently used go first.
    hub_token: for a gated repository on the hub.
    mimi_weights: moshi's own Mimi file, for checkpoints that do not carry Mimi; None fetches moshi's default.
    """

    model: str
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    depth_weights: Literal["auto", "int8"] = "auto"
    slots: int = 4
    workers: int = 1
    compile: Literal["auto", "on", "off"] = "auto"
    audio_queue_slices: int = 5
    voice_cache_bytes: int = 1 << 30
    hub_token: str | None = None
    mimi_weights: str | None = None

    def __post_init__(self) -> None:
        if self.depth_weights not in ("auto", "int8"):
            raise InvalidRequest(f"depth_weights is {self.depth_weights!r}; it may be auto or int8")
        if self.slots < 0:
            raise InvalidRequest(f"slots must be at least 1, or {AUTO_SLOTS} for as many as fit, not {self.slots}")
        if self.workers < 1:
            raise InvalidRequest(f"workers must be at least 1, not {self.workers}")
        if self.audio_queue_slices < 1:
            raise InvalidRequest(f"audio_queue_slices must be at least 1, not {self.audio_queue_slices}")
