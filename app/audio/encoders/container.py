"""Streaming encoder for compressed formats: an FFmpeg codec and muxer, through PyAV, into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import av
import numpy as np
from av.audio.stream import AudioStream

from engine import SAMPLE_RATE

from .base import Samples
from .codec import configure, encoder_errors, to_frame


@dataclass(frozen=True)
class Profile:
    """Codec and container options of a format.

    sample_format: FFmpeg's name of the codec's input format, "s16" or one of its float formats.
    lead_in: samples of silence in front of the audio, so that the codec emits its first packet earlier.
    max_bits: of a sample, which limits the bit rate at low sample rates; None for no limit.
    """

    container: str
    codec: str
    sample_format: str
    bit_rate: int | None = None
    container_options: Mapping[str, str] = field(default_factory=dict)
    codec_options: Mapping[str, str] = field(default_factory=dict)
    lead_in: int = 0
    max_bits: int | None = None

    def bit_rate_at(self, sample_rate: int) -> int | None:
        """The bit rate at a sample rate; None for a codec without one."""
        if self.bit_rate is None or self.max_bits is None:
            return self.bit_rate
        return min(self.bit_rate, self.max_bits * sample_rate)


class _Sink:
    """A write-only file without seek or tell, so that muxers treat the output as a stream."""

    def __init__(self) -> None:
        self._writes: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._writes.append(bytes(data))
        return len(data)

    def drain(self) -> bytes:
        data = b"".join(self._writes)
        self._writes.clear()
        return data


class ContainerEncoder:
    """Encodes one stream with one codec. Bytes are available as soon as the muxer has written a packet.

    Raises EncoderError if this FFmpeg lacks the codec or the container.
    """

    def __init__(self, profile: Profile, sample_rate: int = SAMPLE_RATE) -> None:
        self._sample_format = profile.sample_format
        self._rate = sample_rate
        self._sink = _Sink()
        self._position = 0  # samples sent to the codec
        with encoder_errors(profile.codec, profile.container):
            self._output = av.open(
                self._sink,
                "w",
                format=profile.container,
                container_options={"flush_packets": "1", "fflags": "+bitexact", **profile.container_options},
            )
            self._stream = self._add_stream(profile)
            self._output.start_encoding()
        if profile.lead_in:
            self._encode(np.zeros(profile.lead_in, np.float32))

    def encode(self, samples: Samples) -> bytes:
        if len(samples):
            self._encode(samples)
        return self._sink.drain()

    def flush(self) -> bytes:
        self._output.mux(self._stream.encode(None))
        self._output.close()
        return self._sink.drain()

    def _add_stream(self, profile: Profile) -> AudioStream:
        stream = self._output.add_stream(profile.codec, rate=self._rate, options=dict(profile.codec_options))
        if not isinstance(stream, AudioStream):
            raise ValueError(f"{profile.codec} is not an audio codec")
        configure(stream.codec_context, profile.sample_format, profile.bit_rate_at(self._rate))
        return stream

    def _encode(self, samples: Samples) -> None:
        frame = to_frame(samples, self._sample_format, self._position, self._rate)
        self._position += len(samples)
        self._output.mux(self._stream.encode(frame))
