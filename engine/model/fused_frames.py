"""Decides which row buckets the fused frame step computes: those in which it is right on this device, and faster.

Each bucket is compared with the plain step, from contrived inputs: the backbone's keys and values, every codebook's
logits given the same codes before it, the sampled codes, which must be equal given the same logits, and the state that
the step leaves. A row must have the same logits, bit for bit, in every bucket: that is what a seed promises.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .csm import CsmModel, StepState
from .graphs import GraphCapturer, Work
from .kv_cache import DepthView, KvCache
from .persistent.depth import PersistentDepth
from .sampling import SamplingInputs, SamplingMode, sample

log = logging.getLogger(__name__)

# Largest accepted root mean square of the difference, relative to that of the plain step. Both round, at other places:
# in bfloat16 a step of 16 and 4 layers is 3% off float32 (random weights). A GPU's plain float32 products are TF32.
TOLERANCES = {torch.float32: 2**-8, torch.bfloat16: 2**-3}
_POSITIONS = 8  # filled ones of every row in the comparison
_ROUNDS = 5  # of timed replays
_CAPTURED = SamplingMode(top_k=64, sampled=True, guided=False)  # the plain step that is timed


class FusedStep(Protocol):
    """Computes CsmModel.frame_step in any sampling mode, see fused.step.FusedStep."""

    codes: Tensor  # int64 (rows, codebooks): of the last frame
    pdl: bool
    persistent: PersistentDepth | None

    def frame(self, rows: int, context: int, logits: list[Tensor] | None = None) -> None: ...


@dataclass(frozen=True)
class FusedFrames:
    """A fused step and the numbers of rows for which it is used."""

    step: FusedStep
    rows: frozenset[int]


def verified_fused_frames(
    model: CsmModel,
    state: StepState,
    rows: Sequence[int],
    context: int,
    threads: int,
    capturer: Callable[[], GraphCapturer],
) -> FusedFrames | None:
    """The fused step with the buckets in which it passes, or None with a logged reason; always None on a CPU.

    rows: of the buckets, ascending. context: of a bucket, at least 16. threads: that compile. capturer: makes one for
    the timed graphs. Only while no row is active. Raises torch.OutOfMemoryError.
    """
    if model.device.type != "cuda":
        return None
    if model.dtype != torch.bfloat16:  # in float32 they would multiply without tensor cores
        log.info("fused kernels are not used: they are for bfloat16, not %s", str(model.dtype).removeprefix("torch."))
        return None
    try:
        from .fused import layers, step
    except ImportError as error:
        log.warning("fused kernels are not available: %r", error)
        return None
    reason = layers.unsupported(model.config, model.dtype)
    if reason:
        log.warning("fused kernels are not used: %s", reason)
        return None
    for pdl in (True, False) if torch.cuda.get_device_capability(model.device) >= (9, 0) else (False,):
        try:
            fused = step.FusedStep(model, state, pdl)
            fused.compile_ahead(rows, context, threads)
            chosen = choose(model, state, fused, rows, context, layers.block_of, capturer())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, an unknown GPU: the plain step gives the same speech
            log.warning("fused kernels fail%s: %r", " with programmatic dependent launch" if pdl else "", error)
            continue
        if chosen:
            return FusedFrames(fused, frozenset(chosen))
    return None


def choose(
    model: CsmModel, state: StepState, step: FusedStep, rows: Sequence[int], context: int,
    block_of: Callable[[int], int], capturer: GraphCapturer,
) -> list[int]:  # fmt: skip
    """The buckets, among `rows`, in which the fused step is right, and not slower than the plain one.

    block_of: the tile size of a bucket. Time is measured for the largest bucket of each tile size.
    """
    chosen: list[int] = []
    with torch.inference_mode(), contrived_state(state):
        check = FusedCheck(model, state, step, context)
        for count in rows:
            fault = check.fault(count)
            if fault:
                log.warning("fused kernels are not used for %d rows: %s", count, fault)
            else:
                chosen.append(count)
        for block in sorted({block_of(count) for count in chosen}):
            largest = max(count for count in chosen if block_of(count) == block)
            plain, fused = check.seconds(largest, capturer)
            log.info("a step of %d rows: plain %.2f ms, fused %.2f ms", largest, plain * 1e3, fused * 1e3)
            if fused > plain:
                log.warning("fused kernels are not used for tiles of %d rows: the plain step is faster", block)
                chosen = [count for count in chosen if block_of(count) != block]
    return chosen


@contextlib.contextmanager
def contrived_state(state: StepState) -> Iterator[None]:
    """Contrived contents of all rows for a FusedCheck. Afterwards the state is as before, its positions zeros."""
    synchronize(state.output.device)  # the stream of frames does not wait for this one, nor the reverse
    original = _Snapshot.of(state)
    try:
        _fill(state)
        yield
    finally:
        original.restore(state)
        for tensor in (state.backbone.keys, state.backbone.values):
            tensor[..., :_POSITIONS, :] = 0
        synchronize(state.output.device)


@dataclass(frozen=True)
class _Snapshot:
    """The state but for the caches."""

    output: Tensor
    active: Tensor
    words: Tensor

    @staticmethod
    def of(state: StepState) -> _Snapshot:
        return _Snapshot(state.output.clone(), state.active.clone(), state.table.words.clone())

    def restore(self, state: StepState) -> None:
        state.output.copy_(self.output)
        state.active.copy_(self.active)
        state.table.words.copy_(self.words)


def _fill(state: StepState) -> None:
    """Contrived contents of all rows: positions of keys and values, inputs, sampling parameters."""
    generator = torch.Generator(state.output.device).manual_seed(0)
    for tensor in (state.backbone.keys, state.backbone.values):
        tensor[..., :_POSITIONS, :].normal_(generator=generator)
    rows, sampling = state.active.shape[0], state.sampling
    number = torch.arange(rows, device=state.output.device)
    state.codes.copy_((number[:, None] * 7 + torch.arange(state.codes.shape[1], device=number.device)) % 31)
    state.position.copy_(3 + number % (_POSITIONS - 3))
    state.active.copy_(number % 3 != 1)
    state.starting.copy_(number % 4 == 3)
    sampling.seed.copy_(number)
    sampling.frame.fill_(5)
    sampling.top_k.copy_(1 + number * 13 % 60)
    sampling.temperature.copy_(0.3 * (number % 4))
    sampling.temperature_first.fill_(0.9)
    # Rows refer only to those before them, so that the same rows are the same in every bucket.
    sampling.guidance.copy_((number % 6 == 2).float())
    sampling.unconditional.copy_((number - 2).clamp(min=0))
    sampling.sampler.copy_(torch.where(number % 6 == 5, number - 2, number))


class FusedCheck:
    """Compares a fused step with the plain one, within `contrived_state`."""

    def __init__(self, model: CsmModel, state: StepState, step: FusedStep, context: int) -> None:
        self._model, self._state, self._step, self._context = model, state, step, context
        self._begin = _Snapshot.of(state)
        self._before: list[Tensor] = []  # logits of the last bucket that passed

    def fault(self, rows: int) -> str:
        """What is wrong with the fused step for this number of rows; empty if nothing is."""
        try:
            return self._fault(rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # for example too little shared memory for a tile
            return repr(error)

    def _fault(self, rows: int) -> str:
        model, state, active = self._model, self._state, self._begin.active[:rows]
        self._begin.restore(state)
        hidden = model._backbone_step(state, rows, self._context, active)
        expected_cache = self._cache(rows)
        logits: list[Tensor] = []
        self._step.frame(rows, self._context, logits)
        after = _Snapshot.of(state)
        codes = self._step.codes[:rows].clone()
        self._begin.restore(state)
        errors = {"keys and values": relative_error(self._cache(rows), expected_cache, active, 2)}
        for codebook, expected in enumerate(_forced_logits(model, hidden, codes)):
            errors[f"logits of codebook {codebook}"] = relative_error(logits[codebook], expected, active, 0)
        for name, error in errors.items():
            if not error <= TOLERANCES[model.dtype]:
                return f"the relative error of the {name} is {error:.2g}, above {TOLERANCES[model.dtype]:.2g}"
        if not torch.equal(self._sampled(rows, logits), codes):
            return "other codes are sampled from the same logits"
        model.finish_step(state, rows, codes)
        expected_after = _Snapshot.of(state)
        self._begin.restore(state)
        if not all(map(torch.equal, vars(after).values(), vars(expected_after).values())):
            return "the step leaves another state"
        for one, other in zip(self._before, logits, strict=False):
            same = min(len(one), len(other))
            if not torch.equal(one[:same][active[:same]], other[:same][active[:same]]):
                return f"a row has other logits than among {len(one)} rows"
        self._before = logits
        return ""

    def _cache(self, rows: int) -> Tensor:
        """The positions of the comparison, (2, layers, rows, kv_heads, positions, head_dim)."""
        cache = self._state.backbone
        return torch.stack([each[:, :rows, :, :_POSITIONS] for each in (cache.keys, cache.values)])

    def _sampled(self, rows: int, logits: Sequence[Tensor]) -> Tensor:
        """The codes that the plain sampler draws from these logits."""
        sampling, config = self._state.sampling.first(rows), self._model.config
        mode = SamplingMode(top_k=self._model.sampled_vocab, sampled=True, guided=True)
        inputs = SamplingInputs.of(sampling, mode, config.codebooks, self._model.sampled_vocab)
        return torch.stack(
            [sample(each, sampling, mode, inputs, codebook) for codebook, each in enumerate(logits)], dim=1
        )

    def seconds(self, rows: int, capturer: GraphCapturer) -> tuple[float, float]:
        """Of a plain and of a fused step as graphs. Raises RuntimeError if the fused graph gives other codes."""
        fused = self.fused_seconds(rows, capturer)

        def plain() -> None:
            self._model.frame_step(self._state, rows, self._context, _CAPTURED)

        return self._timed(capturer.capture(plain)), fused

    def fused_seconds(self, rows: int, capturer: GraphCapturer) -> float:
        """As `seconds`, of the fused step alone."""
        self._begin.restore(self._state)
        self._step.frame(rows, self._context)
        expected = self._step.codes[:rows].clone()

        def fused() -> None:
            self._step.frame(rows, self._context)

        replay = capturer.capture(fused)
        for _ in range(_ROUNDS):
            self._begin.restore(self._state)
            replay()
            if not torch.equal(self._step.codes[:rows], expected):
                raise RuntimeError(f"a graph of fused kernels for {rows} rows has other codes than its kernels")
        return self._timed(replay)

    def _timed(self, replay: Work) -> float:
        return best_seconds(replay, self._state.output.device, lambda: self._begin.restore(self._state))


def best_seconds(work: Work, device: torch.device, before: Work = lambda: None) -> float:
    """The shortest of a few runs on an idle device. before: each run, not timed."""
    best = float("inf")
    for _ in range(_ROUNDS):
        before()
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forced_logits(model: CsmModel, hidden: Tensor, codes: Tensor) -> list[Tensor]:
    """Logits of every codebook, (rows, vocab) each, given the codes before it, in one pass of the plain model."""
    config, rows = model.config, len(codes)
    cache = KvCache(config.depth, rows, config.codebooks, model.device, model.dtype)
    inputs = [model._depth_input(codebook, codes[:, codebook]) for codebook in range(config.codebooks - 1)]
    view = DepthView(cache, rows, 0, config.codebooks, model.depth.groups)
    y = model.depth(torch.cat((model.depth_projection(hidden), *inputs), dim=1), slice(0, config.codebooks), view)
    return [model.first_head(hidden[:, 0]), *(head(y[:, at]) for at, head in enumerate(model.heads, start=1))]


def relative_error(actual: Tensor, expected: Tensor, rows: Tensor, dim: int) -> float:
    """Root mean square of the difference in these rows, relative to that of `expected`; NaN if any value is NaN.

    rows: bool, of dimension `dim`.
    """
    index = rows.nonzero()[:, 0]
    one, other = (each.index_select(dim, index).float() for each in (actual, expected))
    return float((one - other).norm() / other.norm())
