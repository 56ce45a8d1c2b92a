"""Compressed formats: a codec of FFmpeg in a container of FFmpeg, through PyAV, into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from engine import SAMPLE_RATE

from .base import EncoderError, Samples
from .pcm import to_int16, to_unit_range

_TIME_BASE = Fraction(1, SAMPLE_RATE)


@dataclass(frozen=True)
class Profile:
    """How a format is made.

    sample_format: what the codec takes, in FFmpeg's words; "s16" or one of its floats.
    lead_in: samples of silence before the first one, where that makes the first packet leave sooner.
    """

    container: str
    codec: str
    sample_format: str
    bit_rate: int | None = None
    container_options: Mapping[str, str] = field(default_factory=dict)
    codec_options: Mapping[str, str] = field(default_factory=dict)
    lead_in: int = 0


class _Sink:
    """A file to write to, without seek or tell: so muxers know that what is written has left."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class ContainerEncoder:
    """One stream of one codec. Bytes leave as soon as the muxer has written a packet.

    Raises EncoderError if this FFmpeg lacks the codec or the container.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._sink = _Sink()
        self._position = 0  # samples given to the codec so far
        try:
            self._output = av.open(
                self._sink,
                "w",
                format=profile.container,
                container_options={"flush_packets": "1", "fflags": "+bitexact", **profile.container_options},
            )
            self._stream = self._add_stream()
            self._output.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            raise EncoderError(
                f"cannot encode {profile.codec} into {profile.container}: {error}. "
                f"PyAV {av.__version__} must be built with both; its wheels on PyPI are"
            ) from error
        if profile.lead_in:
            self._put(np.zeros(profile.lead_in, np.float32))

    def _add_stream(self) -> AudioStream:
        profile = self._profile
        stream = self._output.add_stream(profile.codec, rate=SAMPLE_RATE, options=dict(profile.codec_options))
        if not isinstance(stream, AudioStream):
            raise ValueError(f"{profile.codec} is no audio codec")
        context = stream.codec_context
        context.layout = "mono"
        context.format = profile.sample_format
        if profile.bit_rate is not None:
            context.bit_rate = profile.bit_rate
        return stream

    def encode(self, samples: Samples) -> bytes:
        if len(samples):
            self._put(samples)
        return self._sink.take()

    def flush(self) -> bytes:
        self._output.mux(self._stream.encode(None))
        self._output.close()
        return self._sink.take()

    def _put(self, samples: Samples) -> None:
        convert = to_int16 if self._profile.sample_format.startswith("s16") else to_unit_range
        frame = AudioFrame.from_ndarray(convert(samples)[np.newaxis], format=self._profile.sample_format, layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.time_base = _TIME_BASE
        frame.pts = self._position
        self._position += len(samples)
        self._output.mux(self._stream.encode(frame))
