"""Audio meters against the service's encoders: counted samples equal the input plus codec padding."""

from __future__ import annotations

import numpy as np
import pytest

from app.audio.encoders import FORMATS
from bench.load_test.audio_meters import METERS, SAMPLE_RATE

SPEECH = (0.1 * np.sin(np.arange(5 * SAMPLE_RATE) / 20)).astype(np.float32)
MAX_PADDING = 3000  # samples that a codec adds


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("name", METERS)
def test_samples_are_counted_at_any_split_of_the_bytes(name: str, step: int) -> None:
    encoder, meter = FORMATS[name].create_encoder(), METERS[name]()
    slices = [encoder.encode(SPEECH[at : at + 1920]) for at in range(0, SPEECH.size, 1920)]
    data = b"".join([*slices, encoder.flush()])
    counted = sum(meter.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert 0 <= counted - SPEECH.size <= (0 if name in ("raw_pcm", "wav") else MAX_PADDING)


@pytest.mark.parametrize("name", METERS)
def test_headers_count_nothing_and_audio_counts_immediately(name: str) -> None:
    encoder, meter = FORMATS[name].create_encoder(), METERS[name]()
    assert meter.feed(encoder.encode(SPEECH[:0])) == 0
    assert meter.feed(encoder.encode(SPEECH[:3840])) > 0
