"""What the sections share: sizes, the checkpoint, the loaded engine, and the recorder."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine import EngineConfig
from engine.loading import Loaded

from .records import Recorder


@dataclass(frozen=True)
class Plan:
    """Sizes. rows: batch sizes of frames. listeners: (how many, seconds over which they arrive). limits: factor on the
    sections' time limits, which are for a GPU. seconds: of the whole run. load_seconds: in which a request over HTTP is
    sent to be measured, so more than an answer takes."""

    size: str
    rows: tuple[int, ...]
    context: int
    long_context: int
    prompts: tuple[int, ...]
    listeners: tuple[tuple[int, float], ...]
    frames: int
    loads: tuple[int, ...]
    clip_seconds: int
    peer_rows: tuple[int, ...]
    streams: int
    seconds: float
    limits: float = 1.0
    load_seconds: float = 5.0

    def with_slots(self, slots: int | None) -> Plan:
        """For an engine of so many slots, if a number is given."""
        return self if slots is None else replace(self, rows=(*(rows for rows in self.rows if rows < slots), slots))


GPU = Plan(
    size="full",
    rows=(2, 8, 16, 64, 128, 256),
    context=400,
    long_context=1500,
    prompts=(16, 40, 128, 256),
    listeners=((1, 0.0), (16, 1.5), (64, 4.0), (128, 5.0), (256, 7.0)),
    frames=125,
    loads=(1, 64, 128, 256),
    clip_seconds=5,
    peer_rows=(1, 8, 64),
    streams=8,
    seconds=570,
)
CPU = Plan(
    size="full",
    rows=(2, 8, 16),
    context=200,
    long_context=500,
    prompts=(16, 128),
    listeners=((1, 0.0),),
    frames=10,
    loads=(1,),
    clip_seconds=4,
    peer_rows=(1, 8, 16),
    streams=8,
    seconds=3600,
    limits=8.0,
    load_seconds=45.0,  # an answer takes ten times what it lasts
)
TINY = Plan(
    size="tiny",
    rows=(2, 4),
    context=120,
    long_context=400,
    prompts=(16,),
    listeners=((1, 0.0), (3, 0.2)),
    frames=6,
    loads=(1, 2),
    clip_seconds=2,
    peer_rows=(1, 4),
    streams=2,
    seconds=900,
    limits=3.0,  # the machine may be busy
)


class Session:
    """One run. folder: for the checkpoint, in memory where possible. price: of this GPU per hour."""

    def __init__(
        self, plan: Plan, device: torch.device, folder: Path, recorder: Recorder, price: float | None = None
    ) -> None:
        self.plan, self.device, self.folder, self.recorder, self.price = plan, device, folder, recorder, price
        self._loaded: Loaded | None = None

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def config(self) -> EngineConfig:
        return EngineConfig(str(self.folder), str(self.device), slots=self.plan.rows[-1])

    @property
    def loaded(self) -> Loaded:
        assert self._loaded is not None, "the section load runs before"
        return self._loaded

    @loaded.setter
    def loaded(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def release(self) -> None:
        """Free the engine's memory for another process."""
        self._loaded = None
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
