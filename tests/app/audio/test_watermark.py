from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt
import pytest

from app.audio.encoders import FORMATS
from app.audio.watermark import THRESHOLD, Watermarker, detection_score, embed
from app.watermark_key import PUBLIC_KEY
from engine import FALLBACK_MODEL, SAMPLE_RATE, EngineConfig, SpeechRequest, load_engine

Samples = npt.NDArray[np.float32]
KEY = bytes([1, 2, 3, 4, 5])
TEXT = (
    "The morning was quiet, and a light wind moved over the water. "
    "We walked along the shore and talked until it began to rain."
)


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Several seconds of real speech, float32 (samples,)."""
    engine = load_engine(EngineConfig(model=FALLBACK_MODEL, slots=1))
    try:
        return engine.generate(SpeechRequest(TEXT)).samples
    finally:
        engine.close()


def encode_and_decode(samples: Samples, format_name: str) -> Samples:
    """The samples that a client decodes from a format."""
    encoder = FORMATS[format_name].create_encoder()
    data = encoder.encode(samples) + encoder.flush()
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(io.BytesIO(data)) as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def test_detected_with_its_key_only(speech: Samples) -> None:
    marked = embed(speech, KEY)
    assert detection_score(marked, KEY) > THRESHOLD
    assert detection_score(marked, PUBLIC_KEY) < THRESHOLD
    assert detection_score(speech, KEY) < THRESHOLD


def test_inaudible(speech: Samples) -> None:
    change = embed(speech, KEY) - speech
    assert 10 * np.log10((speech**2).sum() / (change**2).sum()) > 30
    silence = np.zeros(SAMPLE_RATE, np.float32)
    assert not embed(silence, KEY).any()


@pytest.mark.parametrize("format_name", ["wav", "mp3", "opus", "aac"])
def test_robust_to_encoding(speech: Samples, format_name: str) -> None:
    assert detection_score(encode_and_decode(embed(speech, KEY), format_name), KEY) > THRESHOLD


def test_robust_to_cuts_and_gain(speech: Samples) -> None:
    marked = embed(speech, KEY)
    assert detection_score(marked[10_007 : 10_007 + 4 * SAMPLE_RATE], KEY) > THRESHOLD
    assert detection_score(0.05 * marked, KEY) > THRESHOLD


def test_false_positives_are_as_rare_as_the_threshold_implies(speech: Samples) -> None:
    """Scores without a watermark have a standard deviation of about 1, so that the threshold is in that unit."""
    scores = np.array([detection_score(speech, bytes([index, 7, 7, 7, 7])) for index in range(100)])
    assert scores.max() < THRESHOLD
    assert abs(scores.mean()) < 0.5
    assert 0.5 < scores.std() < 1.5


@pytest.mark.parametrize("sizes", [[1920], [1], [320], [0, 7, 1000, 12_345, 0]])
def test_streamed_equals_whole(speech: Samples, sizes: list[int]) -> None:
    speech = speech[:30_000] if sizes != [1] else speech[:1000]
    watermarker, pieces, position, index = Watermarker(KEY), [], 0, 0
    while position < speech.size:
        size = sizes[index % len(sizes)]
        pieces.append(watermarker.push(speech[position : position + size]))
        position, index = position + size, index + 1
    pieces.append(watermarker.flush())
    streamed = np.concatenate(pieces)
    assert streamed.size == speech.size
    np.testing.assert_allclose(streamed, embed(speech, KEY), atol=1e-6)


def test_delay_is_bounded() -> None:
    assert Watermarker(KEY).push(np.ones(1920, np.float32)).size == 1920 - 320


@pytest.mark.parametrize("size", [0, 1, 500, 5000])
def test_recordings_too_short_for_detection_score_low(size: int) -> None:
    samples = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    assert embed(samples, KEY).size == size
    assert detection_score(embed(samples, KEY), KEY) < THRESHOLD
