"""What is said of two depth decoders: nothing of equal ones, and the figures of those that differ are theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.depth_weights import Spoken, compare, depth_logits, speak
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
def rounded(checkpoint: Path) -> Loaded:
    config = EngineConfig(str(checkpoint), "cpu", "float32", "int8", slots=ROWS)
    return load(config, lambda share, what: None)


@pytest.fixture(scope="module")
def spoken(exact: Loaded) -> Spoken:
    return speak(exact, ROWS, FRAMES)


def test_frames_are_caught_as_they_are_made(spoken: Spoken) -> None:
    assert spoken.hidden.shape == (FRAMES, ROWS, 1, TINY["hidden_size"])
    assert spoken.codes.shape == (FRAMES, ROWS, TINY["num_codebooks"])
    assert not torch.equal(spoken.hidden[0, 0], spoken.hidden[0, 1])  # each has a text of its own


def test_one_pass_says_what_the_decoder_says_code_by_code(exact: Loaded, spoken: Spoken) -> None:
    model, state = exact.runner.model, exact.runner.state
    greedy = SamplingMode(top_k=1, sampled=False, guided=False)
    with torch.inference_mode():
        for hidden in spoken.hidden:
            codes = model._codes(hidden, state, ROWS, greedy)
            assert torch.equal(depth_logits(model, hidden, codes).argmax(-1).t(), codes[:, 1:])


def test_equal_weights_differ_in_nothing_and_others_do(exact: Loaded, rounded: Loaded, spoken: Spoken) -> None:
    same = compare(exact.runner, exact.runner, spoken)
    assert bool((same.same_next == 1).all())
    assert bool((same.same_alone == 1).all())
    assert bool((same.kl == 0).all())
    other = compare(exact.runner, rounded.runner, spoken)
    assert other.kl.shape == (TINY["num_codebooks"] - 1,)
    assert bool((other.kl > 0).all())
    read, numbers = weights_per_frame(exact.runner.model)
    assert read == 4 * numbers
    assert weights_per_frame(rounded.runner.model)[0] < read
