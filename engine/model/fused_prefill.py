"""Decides whether fused kernels compute prefill passes: if they are right on this device, and not much slower.

Each size of a pass is compared with the plain one: its keys and values, and the bits of a prompt among others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .csm import CsmModel, StepState
from .fused_frames import TOLERANCES, best_seconds, relative_error, synchronize
from .graphs import GraphCapturer
from .kv_cache import PackedView, PromptAttention
from .prompt_tokens import CODES, IS_AUDIO, POSITION, ROW

log = logging.getLogger(__name__)

_SHORT = 12  # tokens of the prompt whose bits are compared
_MAX_TIME = 2.0  # of the plain pass's: what a prompt's bits may cost that do not depend on its neighbours


class FusedPrefill(Protocol):
    """Computes CsmModel.prefill, see fused.prefill.FusedPrefill."""

    def run(self, tokens: Tensor) -> None: ...


def verified_fused_prefills(
    model: CsmModel, state: StepState, sizes: Sequence[int], pdl: bool, count: int, threads: int,
    capturer: Callable[[], GraphCapturer],
) -> list[FusedPrefill]:  # fmt: skip
    """As many fused passes as there are streams, or none with a logged reason. Call it where the fused step is used.

    sizes: tokens of the passes, ascending, each at least 32. pdl: whether the fused step uses programmatic dependent
    launch. count: of streams, since passes on two of them run at once. threads: that compile. Only while no row is
    active. Raises torch.OutOfMemoryError.
    """
    attention = model.prompt_attention
    if attention is None:
        return []
    try:
        from .fused.prefill import FusedPrefill as TritonPrefill

        passes = [TritonPrefill(model, state.backbone, attention, sizes[-1], pdl) for _ in range(count)]
        passes[0].compile_ahead(sizes, threads)
        fault = prefill_fault(model, state, passes[0], attention, sizes, capturer())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # for example too little shared memory
        fault = repr(error)
    if fault:
        log.warning("fused kernels do not prefill, so a seed may depend on the prompts of others: %s", fault)
        return []
    return list(passes)


def prefill_fault(
    model: CsmModel, state: StepState, fused: FusedPrefill, attention: PromptAttention, sizes: Sequence[int],
    capturer: GraphCapturer,
) -> str:  # fmt: skip
    """What is wrong with fused passes; empty if nothing is. The first two rows' caches are zeros afterwards."""
    cache = state.backbone
    both = torch.ones(2, dtype=torch.bool, device=model.device)
    first: Tensor | None = None
    with torch.inference_mode():

        def written() -> Tensor:
            """Keys and values of the two rows, which are cleared."""
            kept = torch.stack([each[:, :2, :, : cache.scratch] for each in (cache.keys, cache.values)])
            cache.keys[:, :2, :, : cache.scratch] = 0
            cache.values[:, :2, :, : cache.scratch] = 0
            return kept

        for size in sizes:
            tokens = _contrived_tokens(model, size, cache.scratch)
            model.prefill(tokens, PackedView(cache, tokens, attention))
            expected = written()
            fused.run(tokens)
            actual = written()
            error = relative_error(actual, expected, both, 2)
            if not error <= TOLERANCES[model.dtype]:
                return f"{size} tokens: the relative error is {error:.2g}, above {TOLERANCES[model.dtype]:.2g}"
            prompt = actual[:, :, 0, :, :_SHORT].clone()
            if first is not None and not torch.equal(prompt, first):
                return f"{size} tokens: a prompt has other keys and values than in a smaller pass"
            first = prompt
        for size in (sizes[0], sizes[-1]):
            tokens = _contrived_tokens(model, size, cache.scratch)
            view = PackedView(cache, tokens, attention)
            plain = best_seconds(capturer.capture(lambda: model.prefill(tokens, view)), model.device)  # noqa: B023
            seconds = best_seconds(capturer.capture(lambda: fused.run(tokens)), model.device)  # noqa: B023
            log.info("a prefill of %d tokens: plain %.2f ms, fused %.2f ms", size, plain * 1e3, seconds * 1e3)
            written()
            synchronize(model.device)  # the streams of prefill do not wait for this one
            if seconds > _MAX_TIME * plain:
                return f"{size} tokens take {seconds * 1e3:.2f} ms, plain ones {plain * 1e3:.2f}"
    return ""


def _contrived_tokens(model: CsmModel, size: int, scratch: int) -> Tensor:
    """A short prompt of row 0, a long one of row 1, padding: text and audio in turn."""
    device, books = model.device, model.config.codebooks
    number = torch.arange(size, device=device)
    long = min(size - _SHORT - 4, scratch)
    tokens = torch.zeros(size, CODES + books, dtype=torch.int64, device=device)
    tokens[:, ROW] = (number >= _SHORT).long()
    tokens[:, POSITION] = torch.where(number < _SHORT, number, number - _SHORT)
    tokens[_SHORT + long :, POSITION] = scratch
    tokens[:, IS_AUDIO] = number % 5 > 1
    codes = (number[:, None] * 7 + torch.arange(books, device=device)) % 31
    tokens[:, CODES:] = torch.where(tokens[:, IS_AUDIO, None] > 0, codes, 0)
    tokens[:, CODES] = codes[:, 0]
    return tokens
