"""Recordings for the tests of the voices: a hum with some hiss, in each kind of file that is taken."""

from __future__ import annotations

import functools
from io import BytesIO

import av
import numpy as np

from engine.types import Samples

CONTAINERS = {  # kind: (muxer, encoder, sample rate)
    "wav": ("wav", "pcm_s16le", 44_100),
    "mp3": ("mp3", "libmp3lame", 44_100),
    "flac": ("flac", "flac", 44_100),
    "ogg": ("ogg", "libopus", 48_000),
    "mp4": ("mp4", "aac", 48_000),
    "webm": ("webm", "libopus", 48_000),
}


def encode(samples: Samples, muxer: str, encoder: str, rate: int) -> bytes:
    """samples: float32 (channels, samples) at `rate`."""
    packed = BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    with av.open(packed, "w", format=muxer) as container:
        stream = container.add_stream(encoder, rate=rate, layout=layout)
        for start in range(0, samples.shape[1], 4096):
            piece = np.ascontiguousarray(samples[:, start : start + 4096])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return packed.getvalue()


def hum(seconds: float, rate: int, pitch: float = 220.0, channels: int = 1) -> Samples:
    """float32 (channels, samples)"""
    time = np.arange(round(seconds * rate)) / rate
    hiss = np.random.default_rng(int(pitch)).standard_normal(time.size) * 0.01
    return np.tile((0.4 * np.sin(2 * np.pi * pitch * time) + hiss).astype(np.float32), (channels, 1))


@functools.cache
def recording(kind: str = "wav", seconds: float = 1.5, pitch: float = 220.0, channels: int = 1) -> bytes:
    muxer, encoder, rate = CONTAINERS[kind]
    return encode(hum(seconds, rate, pitch, channels), muxer, encoder, rate)


def pitch_of(samples: Samples) -> float:
    """The loudest frequency in Hz, of samples at 24 kHz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * 24_000 / samples.size
