"""Each meter against the service's own encoders: what it counts is what went in, and what a codec adds around it."""

from __future__ import annotations

import numpy as np
import pytest

from app.encoders import FORMATS
from bench.load_test.audio_meters import METERS, SAMPLE_RATE

SPEECH = (0.1 * np.sin(np.arange(5 * SAMPLE_RATE) / 20)).astype(np.float32)
OF_THE_CODEC = 3000  # samples at most, that a codec puts around


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("name", METERS)
def test_it_counts_what_is_heard_however_it_is_cut(name: str, step: int) -> None:
    encoder, meter = FORMATS[name].make(), METERS[name]()
    slices = [encoder.encode(SPEECH[at : at + 1920]) for at in range(0, SPEECH.size, 1920)]
    data = b"".join([*slices, encoder.flush()])
    counted = sum(meter.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert 0 <= counted - SPEECH.size <= (0 if name in ("raw_pcm", "wav") else OF_THE_CODEC)


@pytest.mark.parametrize("name", METERS)
def test_a_header_is_no_sound_and_sound_counts_at_once(name: str) -> None:
    encoder, meter = FORMATS[name].make(), METERS[name]()
    assert meter.feed(encoder.encode(SPEECH[:0])) == 0
    assert meter.feed(encoder.encode(SPEECH[:3840])) > 0
