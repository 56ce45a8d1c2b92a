"""Compressed formats: a codec of FFmpeg in a container of FFmpeg, through PyAV, into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import av
import numpy as np
from av.audio.stream import AudioStream

from engine import SAMPLE_RATE

from .base import Samples
from .codec import as_frame, explained, set_up


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
        self._sample_format = profile.sample_format
        self._sink = _Sink()
        self._position = 0  # samples given to the codec so far
        with explained(profile.codec, profile.container):
            self._output = av.open(
                self._sink,
                "w",
                format=profile.container,
                container_options={"flush_packets": "1", "fflags": "+bitexact", **profile.container_options},
            )
            self._stream = self._add_stream(profile)
            self._output.start_encoding()
        if profile.lead_in:
            self._put(np.zeros(profile.lead_in, np.float32))

    def encode(self, samples: Samples) -> bytes:
        if len(samples):
            self._put(samples)
        return self._sink.take()

    def flush(self) -> bytes:
        self._output.mux(self._stream.encode(None))
        self._output.close()
        return self._sink.take()

    def _add_stream(self, profile: Profile) -> AudioStream:
        stream = self._output.add_stream(profile.codec, rate=SAMPLE_RATE, options=dict(profile.codec_options))
        if not isinstance(stream, AudioStream):
            raise ValueError(f"{profile.codec} is no audio codec")
        set_up(stream.codec_context, profile.sample_format, profile.bit_rate)
        return stream

    def _put(self, samples: Samples) -> None:
        frame = as_frame(samples, self._sample_format, self._position)
        self._position += len(samples)
        self._output.mux(self._stream.encode(frame))
