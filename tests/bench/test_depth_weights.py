"""Comparison of depth decoders: equal weights agree completely, int8 weights differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.depth_weights import Generated, compare, depth_logits, generate
from bench.frame import weights_per_frame
from engine import EngineConfig
from engine.loading import Loaded, load
from engine.model.sampling import SamplingMode
from engine.random_checkpoint import TINY

ROWS, FRAMES = 2, 2


@pytest.fixture(scope="module")
def exact(checkpoint: Path) -> Loaded:
    return load(EngineConfig(str(checkpoint), "cpu", "float32", slots=ROWS), lambda share, what: None)


@pytest.fixture(scope="module")
def quantized(checkpoint: Path) -> Loaded:
    config = EngineConfig(str(checkpoint), "cpu", "float32", "int8", slots=ROWS)
    return load(config, lambda share, what: None)


@pytest.fixture(scope="module")
def generated(exact: Loaded) -> Generated:
    return generate(exact, ROWS, FRAMES)


def test_hidden_states_and_codes_of_every_frame_are_recorded(generated: Generated) -> None:
    assert generated.hidden.shape == (FRAMES, ROWS, 1, TINY["hidden_size"])
    assert generated.codes.shape == (FRAMES, ROWS, TINY["num_codebooks"])
    assert not torch.equal(generated.hidden[0, 0], generated.hidden[0, 1])  # every row has its own text


def test_one_pass_equals_decoding_code_by_code(exact: Loaded, generated: Generated) -> None:
    model, state = exact.runner.model, exact.runner.state
    greedy = SamplingMode(top_k=1, sampled=False, guided=False)
    with torch.inference_mode():
        for hidden in generated.hidden:
            codes = model._codes(hidden, state, ROWS, greedy)
            assert torch.equal(depth_logits(model, hidden, codes).argmax(-1).t(), codes[:, 1:])


def test_equal_weights_agree_and_int8_weights_differ(exact: Loaded, quantized: Loaded, generated: Generated) -> None:
    same = compare(exact.runner, exact.runner, generated)
    assert bool((same.same_next == 1).all())
    assert bool((same.same_alone == 1).all())
    assert bool((same.kl == 0).all())
    other = compare(exact.runner, quantized.runner, generated)
    assert other.kl.shape == (TINY["num_codebooks"] - 1,)
    assert bool((other.kl > 0).all())
    read, numbers = weights_per_frame(exact.runner.model)
    assert read == 4 * numbers
    assert weights_per_frame(quantized.runner.model)[0] < read
