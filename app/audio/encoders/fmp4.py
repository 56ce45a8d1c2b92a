"""AAC in fragmented MP4, as Media Source Extensions accept it: one fragment per slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import CodecContext

from engine import SAMPLE_RATE

from . import mp4_boxes
from .base import Samples
from .codec import configure, encoder_errors, to_frame

PACKET_SAMPLES = 1024
PRIMING_SAMPLES = 1024  # encoder delay: decoded in front of the first input sample

# The codec emits its first packet after 2048 samples; a slice of one frame is 128 short of that.
LEAD_IN_SAMPLES = 2 * PACKET_SAMPLES - 1920

BIT_RATE = 64_000
MAX_BITS = 4  # of a sample; AAC itself allows six
_SAMPLE_FORMAT = "fltp"


class Fmp4Encoder:
    """Encodes one stream. An edit list removes the codec's delay, the last packet's duration removes its padding.

    Raises EncoderError if this FFmpeg has no AAC encoder.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        bit_rate = min(BIT_RATE, MAX_BITS * sample_rate)
        with encoder_errors("aac", "mp4"):
            codec = CodecContext.create("aac", "w")
            if not isinstance(codec, AudioCodecContext):
                raise ValueError("aac is not an audio codec")
            codec.sample_rate = sample_rate
            configure(codec, _SAMPLE_FORMAT, bit_rate)
            codec.open()
        self._codec = codec
        self._rate = sample_rate
        self._position = 0  # samples sent to the codec
        self._fragments = 0
        self._packets = 0
        self._pending_header = mp4_boxes.header(
            bytes(codec.extradata or b""),
            sample_rate=sample_rate,
            packet_samples=PACKET_SAMPLES,
            skip=PRIMING_SAMPLES + LEAD_IN_SAMPLES,
            bit_rate=bit_rate,
        )
        self._encode(np.zeros(LEAD_IN_SAMPLES, np.float32))

    def encode(self, samples: Samples) -> bytes:
        packets = self._encode(samples) if len(samples) else []
        return self._take_header() + self._fragment(packets, [PACKET_SAMPLES] * len(packets))

    def flush(self) -> bytes:
        packets = [bytes(packet) for packet in self._codec.encode(None)]
        durations = [PACKET_SAMPLES] * len(packets)
        if packets:
            before_last = (self._packets + len(packets) - 1) * PACKET_SAMPLES
            durations[-1] = min(PRIMING_SAMPLES + self._position - before_last, PACKET_SAMPLES)
        return self._take_header() + self._fragment(packets, durations)

    def _encode(self, samples: Samples) -> list[bytes]:
        frame = to_frame(samples, _SAMPLE_FORMAT, self._position, self._rate)
        self._position += len(samples)
        return [bytes(packet) for packet in self._codec.encode(frame)]

    def _take_header(self) -> bytes:
        header, self._pending_header = self._pending_header, b""
        return header

    def _fragment(self, packets: Sequence[bytes], durations: Sequence[int]) -> bytes:
        if not packets:
            return b""
        start = self._packets * PACKET_SAMPLES
        self._packets += len(packets)
        self._fragments += 1
        return mp4_boxes.fragment(self._fragments, start, packets, durations)
