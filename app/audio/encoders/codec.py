"""Helpers shared by all FFmpeg codecs: configuration, conversion of samples to frames, error messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame

from engine import SAMPLE_RATE

from .base import EncoderError, Samples
from .pcm import to_int16, to_unit_range


def configure(context: AudioCodecContext, sample_format: str, bit_rate: int | None) -> None:
    """Configure a codec for mono before it is opened. sample_format: FFmpeg's name of the codec's input format."""
    context.layout = "mono"
    context.format = sample_format
    if bit_rate is not None:
        context.bit_rate = bit_rate


def to_frame(samples: Samples, sample_format: str, position: int, sample_rate: int = SAMPLE_RATE) -> AudioFrame:
    """Samples (n,), saturated, as a frame. position: index of its first sample in the stream."""
    values = to_int16(samples) if sample_format == "s16" else to_unit_range(samples)
    frame = AudioFrame.from_ndarray(values[np.newaxis], format=sample_format, layout="mono")
    frame.sample_rate = sample_rate
    frame.time_base = Fraction(1, sample_rate)
    frame.pts = position
    return frame


@contextmanager
def encoder_errors(codec: str, container: str) -> Iterator[None]:
    """Convert FFmpeg's errors on opening a codec or container to EncoderError."""
    try:
        yield
    except (av.error.FFmpegError, ValueError) as error:
        raise EncoderError(
            f"cannot encode {codec} into {container}: {error}. The FFmpeg bundled with PyAV {av.__version__} must "
            "support both; that of PyAV's wheels on PyPI does"
        ) from error
