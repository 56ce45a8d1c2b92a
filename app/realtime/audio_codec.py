"""Audio of the protocol as samples: base64 of 16-bit PCM at 24 kHz, or of G.711 at 8 kHz."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from ..audio.encoders.base import Encoder, Samples
from ..audio.encoders.g711 import TELEPHONE_RATE, G711Encoder, Law
from ..audio.encoders.pcm import FULL_SCALE, RawPcmEncoder, to_int16
from ..audio.encoders.resampling import ResamplingEncoder
from ..audio.g711_decoder import decode_g711
from ..audio.rate_converter import RateConverter
from ..errors import Unprocessable
from .config import AudioFormat

Pcm = npt.NDArray[np.int16]
_LAWS: dict[str, Law] = {"audio/pcmu": "mulaw", "audio/pcma": "alaw"}


class AudioDecoder:
    """The user's audio, piece by piece. A sample may be cut in two by the end of a piece."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._law = _LAWS.get(audio_format.type)
        self._resampler = None if self._law is None else RateConverter(TELEPHONE_RATE, SAMPLE_RATE)
        self._rest = b""

    def decode(self, audio: str) -> Pcm:
        """Base64 as int16 (samples,) at 24 kHz. Raises Unprocessable if it is not base64."""
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unprocessable(f"audio: it is not base64 ({error})", code="invalid_audio") from None
        if self._law is None or self._resampler is None:
            data = self._rest + data
            self._rest = data[len(data) // 2 * 2 :]
            return np.frombuffer(data, "<i2", len(data) // 2).astype(np.int16, copy=False)
        return to_int16(self._resampler.push(to_float(decode_g711(data, self._law))))


def create_encoder(audio_format: AudioFormat) -> Encoder:
    """The encoder of the assistant's audio: float32 (samples,) at 24 kHz to bytes, piece by piece."""
    law = _LAWS.get(audio_format.type)
    if law is None:
        return RawPcmEncoder()
    return ResamplingEncoder(G711Encoder(law, TELEPHONE_RATE), TELEPHONE_RATE)


def to_float(pcm: Pcm) -> Samples:
    """int16 (samples,) as float32 in -1..1."""
    return pcm.astype(np.float32) / np.float32(FULL_SCALE + 1)
