"""Prompts on several CUDA streams: the same codes as on one, and no more streams than the card has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.cuda_streams import DeviceStream, StreamPriority
from engine.engine_core import CsmEngine
from engine.prefill_streams import open_streams

from .requests import REQUESTS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def test_streams_of_two_priorities_are_distinct() -> None:
    device = torch.device("cuda")
    prompts = {each.handle for each in open_streams(device, 4)}
    assert len(prompts) == 4
    assert not prompts & {DeviceStream(device, each).handle for each in (StreamPriority.VOICES, StreamPriority.FRAMES)}


def test_a_card_with_fewer_streams_says_so(caplog: pytest.LogCaptureFixture) -> None:
    streams = open_streams(torch.device("cuda"), 33)  # PyTorch has 32 of a priority
    assert len(streams) <= 32
    assert f"{len(streams)} of the 33 prefill streams" in caplog.text


def test_codes_are_those_of_one_stream(load: Callable[..., CsmEngine]) -> None:
    one, four = load(prompt_streams=1), load(prompt_streams=4)
    assert len(four._runner.prefills.pipelines) == 4
    requests = [replace(REQUESTS[n % len(REQUESTS)], seed=n) for n in range(12)]
    alone = [one.generate(each).codes for each in requests]
    streams = [
        four.stream(each) for each in requests
    ]  # more than there are rows: they arrive while others are prefilled
    for stream, codes in zip(streams, alone, strict=True):
        np.testing.assert_array_equal(stream.collect().codes, codes)
