"""G.711, the codec of telephony: µ-law and A-law, 8 bits a sample, raw or in a wav file."""

from __future__ import annotations

from typing import Literal

import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import CodecContext

from .base import Samples
from .codec import configure, encoder_errors, to_frame
from .wav import g711_wav_header

Law = Literal["mulaw", "alaw"]

TELEPHONE_RATE = 8_000  # Hz


class G711Encoder:
    """Encodes one stream, without delay. in_wav: with the header of a wav file.

    Raises EncoderError if this FFmpeg lacks the codec.
    """

    def __init__(self, law: Law, sample_rate: int, *, in_wav: bool = False) -> None:
        with encoder_errors(law, "wav" if in_wav else "raw"):
            codec = CodecContext.create(f"pcm_{law}", "w")
            if not isinstance(codec, AudioCodecContext):
                raise ValueError(f"{law} is not an audio codec")
            codec.sample_rate = sample_rate
            configure(codec, "s16", None)
            codec.open()
        self._codec = codec
        self._rate = sample_rate
        self._position = 0
        self._pending_header = g711_wav_header(law, sample_rate) if in_wav else b""

    def encode(self, samples: Samples) -> bytes:
        if not samples.size:
            return self._take_header()
        frame = to_frame(np.ascontiguousarray(samples), "s16", self._position, self._rate)
        self._position += samples.size
        return self._take_header() + b"".join(bytes(packet) for packet in self._codec.encode(frame))

    def flush(self) -> bytes:
        return self._take_header()

    def _take_header(self) -> bytes:
        header, self._pending_header = self._pending_header, b""
        return header
