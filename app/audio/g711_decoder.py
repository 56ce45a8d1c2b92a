"""Decodes G.711 by tables from FFmpeg's codecs: a look-up costs less than a call of the codec."""

from __future__ import annotations

from functools import cache

import av
import numpy as np
import numpy.typing as npt

from .encoders.g711 import TELEPHONE_RATE, Law


def decode_g711(data: bytes, law: Law) -> npt.NDArray[np.int16]:
    """Bytes, one a sample, as int16 (samples,)."""
    return _decoded(law)[np.frombuffer(data, np.uint8)]


@cache
def _decoded(law: Law) -> npt.NDArray[np.int16]:
    """The sample of each byte, (256,)."""
    codec = av.CodecContext.create(f"pcm_{law}", "r")
    assert isinstance(codec, av.AudioCodecContext)
    codec.sample_rate, codec.layout = TELEPHONE_RATE, "mono"
    frames = codec.decode(av.Packet(bytes(range(256))))
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(np.int16)
