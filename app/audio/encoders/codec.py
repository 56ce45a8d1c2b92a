"""What all codecs of FFmpeg share: their setting, frames to feed them, and errors that say what to do."""

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

_TIME_BASE = Fraction(1, SAMPLE_RATE)


def set_up(context: AudioCodecContext, sample_format: str, bit_rate: int | None) -> None:
    """Set a codec that is not open yet to mono. sample_format: FFmpeg's name of what the codec takes."""
    context.layout = "mono"
    context.format = sample_format
    if bit_rate is not None:
        context.bit_rate = bit_rate


def as_frame(samples: Samples, sample_format: str, position: int) -> AudioFrame:
    """Samples (n,), saturated, as a frame whose first sample is the position-th of the stream."""
    values = to_int16(samples) if sample_format == "s16" else to_unit_range(samples)
    frame = AudioFrame.from_ndarray(values[np.newaxis], format=sample_format, layout="mono")
    frame.sample_rate = SAMPLE_RATE
    frame.time_base = _TIME_BASE
    frame.pts = position
    return frame


@contextmanager
def explained(codec: str, container: str) -> Iterator[None]:
    """Turn FFmpeg's refusal to start into an EncoderError that says what it takes."""
    try:
        yield
    except (av.error.FFmpegError, ValueError) as error:
        raise EncoderError(
            f"cannot encode {codec} into {container}: {error}. The FFmpeg inside PyAV {av.__version__} must have both; "
            "that of PyAV's wheels on PyPI does"
        ) from error
