"""Captured and packed prefill: equal to the plain twin, and as few launches for many prompts as for one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from engine import EngineConfig
from engine.context import Prefill
from engine.loading import load
from engine.model.graphs import Bucket, BucketGrid, Work
from engine.model_runner import ModelRunner, SamplingParams
from engine.prefill_pipeline import PASS_SIZES
from engine.prompt_packing import PromptPiece

from .tape import TapeCapturer

ROWS = 16


class GatheredAttention:
    """Implements PromptAttention without reading values on the host: a copy of its row for each token, masked."""

    align = 4

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        mask = (torch.arange(keys.shape[2]) <= positions[:, None])[:, None, None]
        y = scaled_dot_product_attention(q, keys[rows], values[rows], mask)
        return y.masked_fill((positions >= keys.shape[2])[:, None, None, None], 0.0)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> ModelRunner:
    return load(EngineConfig(str(checkpoint), "cpu", "float32", slots=2), lambda share, what: None).runner


@pytest.fixture
def packed(loaded: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> ModelRunner:
    """A runner that packs prompts as on a GPU."""
    monkeypatch.setattr(loaded.model, "prompt_attention", GatheredAttention())
    return fresh(loaded)


def fresh(loaded: ModelRunner) -> ModelRunner:
    return ModelRunner(loaded.model, loaded.codec, ROWS, BucketGrid((ROWS,), (512,)))


def prompts(rows: int) -> list[PromptPiece]:
    rng = np.random.default_rng(0)
    spans = [[list(range(1, 4 + row)), rng.integers(0, 64, (row % 3, 4)), [7, 8]] for row in range(rows)]
    return [PromptPiece(row, Prefill(0, each)) for row, each in enumerate(spans)]


def begin(runner: ModelRunner, pieces: list[PromptPiece]) -> None:
    for piece in pieces:
        runner.reset_row(piece.row, SamplingParams(seed=piece.row, temperature_first=0.9, temperature=0.8, top_k=50))
    runner.prefill(pieces)
    for piece in pieces:
        runner.start_row(piece.row, piece.prefill.length)


def codes_of(runner: ModelRunner, pieces: list[PromptPiece]) -> list[Any]:
    begin(runner, pieces)
    rows = [piece.row for piece in pieces]
    return [runner.step(rows).codes[rows].tolist() for _ in range(4)]


def test_captured_passes_give_the_codes_of_the_plain_twin(
    loaded: ModelRunner, packed: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    capturer = TapeCapturer()  # refuses to capture what reads values on the host
    seen = list(packed.prefills.record_graphs(lambda: capturer))
    sizes = [size for size in PASS_SIZES if size <= packed.prefills.max_tokens]
    assert seen == [(number, len(sizes)) for number in range(1, len(sizes) + 1)]
    assert packed.prefills.graphs == len(sizes)
    assert not packed.state.backbone.keys[:, :, :, : packed.state.backbone.scratch].any()  # rehearsals leave nothing
    before = capturer.replays
    actual = codes_of(packed, prompts(ROWS))
    assert capturer.replays == before + 1
    monkeypatch.setattr(loaded.model, "prompt_attention", None)
    assert actual == codes_of(fresh(loaded), prompts(ROWS))


def test_prefill_beside_others_does_not_change_their_rows(packed: ModelRunner) -> None:
    pieces = prompts(5)
    begin(packed, pieces)
    before = packed.state.backbone.keys[:, :5].clone()
    packed.prefill([PromptPiece(9, Prefill(3, [[1] * 70]))])
    scratch = packed.state.backbone.scratch
    assert torch.equal(packed.state.backbone.keys[:, :5, :, :scratch], before[:, :, :, :scratch])
    assert packed.state.backbone.keys[:, 9, :, 3:73].any(dim=-1).all()
    assert not packed.state.backbone.keys[:, 9, :, 73:scratch].any()


class WrongCapturer(TapeCapturer):
    """Replays a pass of 64 tokens with a wrong key."""

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self._keys, self._count = keys, 0

    def capture(self, work: Work) -> Work:
        replay, self._count = super().capture(work), self._count + 1
        wrong = self._count == 3

        def replay_and_spoil() -> None:
            replay()
            if wrong:
                self._keys[0, 1, 0, 2] += 1

        return replay_and_spoil


class BrokenCapturer:
    def capture(self, work: Work) -> Work:
        raise RuntimeError("operation not permitted")


@pytest.mark.parametrize(
    ("capturer", "message"),
    [
        (lambda runner: WrongCapturer(runner.state.backbone.keys), "prefill of 64 tokens differs"),
        (lambda runner: BrokenCapturer(), "operation not permitted"),
    ],
)
def test_prompts_are_prefilled_eagerly_where_graphs_fail(
    packed: ModelRunner, caplog: pytest.LogCaptureFixture, capturer: Callable[[ModelRunner], Any], message: str
) -> None:
    expected = codes_of(packed, prompts(3))
    with caplog.at_level(logging.WARNING):
        list(packed.prefills.record_graphs(lambda: capturer(packed)))
    assert message in caplog.text
    assert packed.prefills.graphs == 0
    assert codes_of(packed, prompts(3)) == expected


class _Counter(TorchDispatchMode):
    """Counts operators that launch work or wait: all but views and what stays on the host."""

    FREE = ("view", "slice", "select", "detach", "alias", "as_strided", "expand", "transpose", "permute", "unbind", "t")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        if name not in self.FREE:
            self.launches.append(name)
        return operator(*args, **(kwargs or {}))


class _GraphCapturer:
    """Replays count as one launch, as on a GPU; they compute nothing."""

    def __init__(self) -> None:
        self.launches = 0

    def capture(self, work: Work) -> Work:
        def replay() -> None:
            self.launches += 1

        return replay


def admitted(loaded: ModelRunner, rows: int) -> tuple[list[str], int]:
    """What the admission of a burst launches, graphs apart, and the Python calls of the thread."""
    runner = fresh(loaded)
    graphs = _GraphCapturer()
    runner.prefills.pipelines[0].graphs.capture(graphs, map(Bucket, PASS_SIZES), lambda bucket: None)
    runner.frames.reset_graph.capture(graphs, [Bucket(0)], lambda bucket: None)
    pieces = prompts(rows)
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def admit() -> None:
        begin(runner, pieces)
        runner.apply_changes()

    sys.setprofile(count)
    try:
        admit()
    finally:
        sys.setprofile(None)
    assert graphs.launches == 2  # the prompts of all rows, and their codec resets
    with _Counter() as counter:
        admit()
    return counter.launches, calls


def test_a_burst_takes_as_many_launches_as_one_prompt_and_few_calls_for_each(
    loaded: ModelRunner, packed: ModelRunner
) -> None:
    """A launch takes 5 to 10 µs of the thread, a call well under 1: 0.5 ms for one prompt, 0.2 for each of a burst."""
    alone, calls_alone = admitted(loaded, 1)
    burst, calls_burst = admitted(loaded, ROWS)
    assert burst == alone
    assert len(alone) <= 8
    assert "_local_scalar_dense" not in alone  # a wait for the device
    assert calls_alone <= 400
    assert (calls_burst - calls_alone) / (ROWS - 1) <= 100
