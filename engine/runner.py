"""The model and the codec at work on rows: prefill, and one frame for all that speak. Knows rows, not requests."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codec.mimi import MimiCodec
from .context import Prefill, Span
from .model.csm import CsmModel
from .model.sampling import StepKind
from .model.transformer import Mlp, RMSNorm
from .types import Codes, Samples

log = logging.getLogger(__name__)

# How many positions one prefill may take before the rows that speak get their next frame.
_PREFILL_POSITIONS = {"cpu": 64, "cuda": 512}
# A step reads this many more positions than it must, so that few shapes are ever seen.
_CONTEXT_STEP = {"cpu": 64, "cuda": 256}
# A matrix product of one row goes another way than one of several, and rounds differently. With two rows at the
# least, what a row says does not depend on who else is speaking; the second costs nothing.
FEWEST_ROWS = 2
_TOP_K_STEPS = (64, 256)  # and then the whole vocabulary


@dataclass(frozen=True)
class RowSettings:
    """How one row samples. See SamplingState."""

    seed: int
    temperature_first: float
    temperature: float
    top_k: int
    guidance: float = 0.0
    unconditional: int | None = None
    sampler: int | None = None


@dataclass(frozen=True)
class Frame:
    """One step's outcome for the first rows, on the host. Only rows that spoke mean anything."""

    codes: Codes  # (rows, codebooks)
    stopped: np.ndarray[Any, Any]  # bool (rows,)
    samples: Samples  # (rows, 1920)


class Runner:
    """Owns the static state. Every method is called from the engine's thread."""

    def __init__(self, model: CsmModel, codec: MimiCodec, rows: int) -> None:
        self.model, self.codec = model, codec
        self.rows = rows
        self.device = model.heads.device
        self.state = model.allocate(self.rows)
        self._settings: list[RowSettings | None] = [None] * self.rows
        self._positions = [0] * self.rows  # the host's copy of state.position
        self._streams = [self._new_stream() for _ in range(self.rows)]
        self._prefilled: list[Any] = [None] * self.rows  # an event per row, on a GPU
        self.prefill_positions = _PREFILL_POSITIONS[self.device.type]

    @property
    def nbytes(self) -> int:
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return weights + self.state.backbone.nbytes + self.state.depth.nbytes

    # ---- one row

    def begin(self, row: int, settings: RowSettings) -> None:
        """A new utterance in this row: how it samples, and a codec that has said nothing."""
        state, sampling = self.state, self.state.sampling
        self._settings[row] = settings
        state.codes[row] = 0
        sampling.seed[row] = settings.seed
        sampling.frame[row] = 0
        sampling.temperature_first[row] = settings.temperature_first
        sampling.temperature[row] = settings.temperature
        sampling.top_k[row] = settings.top_k
        sampling.guidance[row] = settings.guidance
        sampling.unconditional[row] = row if settings.unconditional is None else settings.unconditional
        sampling.sampler[row] = row if settings.sampler is None else settings.sampler
        self.codec.reset(row)

    def encode(self, row: int, samples: Samples, sample_rate: int) -> Codes:
        """A recording to codes, (frames, codebooks), on the row's stream."""
        with self._on_stream(row), torch.inference_mode():
            codes: Codes = self.codec.encode(samples, sample_rate).cpu().numpy()
        return codes

    def prefill(self, row: int, prefill: Prefill, most: int) -> Prefill | None:
        """Put at most `most` positions into the row's context; what is left comes back."""
        with self._on_stream(row), torch.inference_mode():
            now, later = _split(prefill, most)
            embeddings = torch.cat([self._embed(span) for span in now.spans if len(span)])
            self.model.prefill(self.state, row, now.start, embeddings)
        return later

    def saved(self, row: int, length: int) -> Tensor:
        """The keys and values of a row's first positions, to be put into other rows, on whatever stream."""
        with self._on_stream(row), torch.inference_mode():
            saved = self.state.backbone.copy_out(row, length)
        if saved.is_cuda:
            self._streams[row].synchronize()
        return saved

    def restore(self, row: int, saved: Tensor) -> None:
        with self._on_stream(row), torch.inference_mode():
            if saved.is_cuda:  # made on another row's stream: not to be freed while this one reads it
                saved.record_stream(torch.cuda.current_stream(self.device))
            self.state.backbone.copy_in(row, saved)

    def start(self, row: int, position: int) -> None:
        """The row's prompt is complete but for the end of its text, which is the next step's input."""
        self._positions[row] = position
        self.state.position[row] = position
        self.state.starting[row] = True
        if self._streams[row] is not None:
            self._prefilled[row] = self._streams[row].record_event()

    def is_prefilled(self, row: int, wait: bool) -> bool:
        """Whether the row's stream has come to the end of its prefill. wait: until it has."""
        event = self._prefilled[row]
        if event is None:
            return True
        if wait:
            event.synchronize()
        return bool(event.query())

    def _embed(self, span: Span) -> Tensor:
        if isinstance(span, list):
            return self.model.embed_text(torch.tensor(span, device=self.device))
        return self.model.embed_frames(torch.from_numpy(span).to(self.device))

    # ---- all rows

    def step(self, speaking: list[int]) -> Frame:
        """One frame for these rows."""
        rows = max(max(speaking) + 1, FEWEST_ROWS)
        with torch.inference_mode():
            self._speak(speaking)
            self.model.frame_step(self.state, rows, self._context(speaking), self._kind(speaking))
            heard = self.state.speaking & ~self.state.stopped
            samples = self.codec.decode(self.state.codes, heard)
            for row in speaking:
                self._positions[row] += 1
            return Frame(  # copies: the next step writes over the state
                codes=self.state.codes[:rows].to("cpu", copy=True).numpy(),
                stopped=self.state.stopped[:rows].to("cpu", copy=True).numpy(),
                samples=samples[:rows].to("cpu", copy=True).numpy(),
            )

    def _speak(self, speaking: list[int]) -> None:
        mask = torch.zeros(self.rows, dtype=torch.bool)
        mask[speaking] = True
        self.state.speaking.copy_(mask)
        self.state.stopped.zero_()

    def _context(self, speaking: list[int]) -> int:
        step = _CONTEXT_STEP[self.device.type]
        needed = max(self._positions[row] for row in speaking) + 1
        return min(-(-needed // step) * step, self.model.config.positions)

    def _kind(self, speaking: list[int]) -> StepKind:
        settings = [found for row in speaking if (found := self._settings[row]) is not None]
        sampled = any(max(each.temperature, each.temperature_first) > 0 for each in settings)
        top_k = max((each.top_k for each in settings), default=1) if sampled else 1
        rounded = next((size for size in _TOP_K_STEPS if top_k <= size), self.model.sampled_vocab)
        return StepKind(top_k=rounded, sampled=sampled, guided=any(each.guidance > 0 for each in settings))

    # ---- the device

    def _new_stream(self) -> Any:
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def _on_stream(self, row: int) -> Any:
        stream = self._streams[row]
        return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)

    def compile(self, on: bool = True) -> None:
        """Fuse the small kernels around the matrix products; shapes stay open, so one build serves all rows."""
        for module in self.model.modules():
            if isinstance(module, RMSNorm | Mlp):
                if on:
                    module.compile(dynamic=True)  # type: ignore[no-untyped-call]
                else:
                    module._compiled_call_impl = None

    def warm_up(self) -> None:
        """Run every kernel once: the first request should not wait for them to load."""
        self.begin(0, RowSettings(seed=0, temperature_first=1.0, temperature=1.0, top_k=1))
        self.prefill(0, Prefill(0, [[self.model.end_of_text] * 8]), 8)
        self.start(0, 8)
        self.is_prefilled(0, wait=True)
        for _ in range(2):
            self.step([0])
        self.state.starting.zero_()


def _split(prefill: Prefill, most: int) -> tuple[Prefill, Prefill | None]:
    """The first `most` positions of a prefill, and the rest of it."""
    now: list[Span] = []
    later: list[Span] = []
    room = most
    for span in prefill.spans:
        now.append(span[:room])
        if len(span) > room:
            later.append(span[room:])
        room = max(room - len(span), 0)
    rest = Prefill(prefill.start + most, later) if later else None
    return Prefill(prefill.start, now), rest
