"""Encoder cost: CPU milliseconds per 80 ms frame of audio, for every format.

    python bench/encoders.py [--seconds 20] [--slice-frames 5]

Also per format: the cost of creating an encoder, the bytes of the first slice of one frame, the bit rate, and the
number of real-time streams one core can encode. A frame may cost at most 80 ms; the floor is raw_pcm. CPU time is
independent of other load on the machine.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np

from app.audio.encoders import FORMATS, Format
from app.audio.encoders.base import Samples
from engine import FRAME_MILLISECONDS, FRAME_SAMPLES, SAMPLE_RATE


@dataclass(frozen=True)
class Cost:
    format: str
    build_ms: float  # one encoder, header included
    one_frame_ms: float  # per 80 ms frame, in slices of one frame
    sliced_ms: float  # per 80 ms frame, in slices as long as a running stream's
    first_bytes: int  # bytes of the first slice of one frame
    kilobits_per_second: float
    streams_per_core: int  # at sliced_ms


def voice_like(seconds: float) -> Samples:
    """Speech-like test signal: harmonics plus noise, amplitude-modulated at 3 Hz, so that codecs work as on speech."""
    time_axis = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time_axis)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    buzz = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 25))
    breath = np.random.default_rng(0).normal(0, 0.05, time_axis.size)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * time_axis)
    return np.asarray(0.3 * syllables * (buzz + breath), dtype=np.float32)


def cpu_ms_per_frame(audio_format: Format, samples: Samples, slice_frames: int) -> float:
    step = slice_frames * FRAME_SAMPLES
    encoder = audio_format.create_encoder()
    started = time.process_time()
    for start in range(0, samples.size, step):
        encoder.encode(samples[start : start + step])
    encoder.flush()
    return (time.process_time() - started) * 1000 / (samples.size / FRAME_SAMPLES)


def measure(audio_format: Format, samples: Samples, slice_frames: int) -> Cost:
    encoder = audio_format.create_encoder()  # warm-up: loads libraries
    first = encoder.encode(samples[:FRAME_SAMPLES])
    size = len(first) + len(encoder.encode(samples[FRAME_SAMPLES:])) + len(encoder.flush())
    builds = 20
    started = time.process_time()
    for _ in range(builds):
        audio_format.create_encoder()
    build_ms = (time.process_time() - started) * 1000 / builds
    one_frame_ms = cpu_ms_per_frame(audio_format, samples, 1)
    sliced_ms = cpu_ms_per_frame(audio_format, samples, slice_frames)
    return Cost(
        format=audio_format.name,
        build_ms=round(build_ms, 3),
        one_frame_ms=round(one_frame_ms, 3),
        sliced_ms=round(sliced_ms, 3),
        first_bytes=len(first),
        kilobits_per_second=round(size * 8 / (samples.size / SAMPLE_RATE) / 1000, 1),
        streams_per_core=int(FRAME_MILLISECONDS / max(sliced_ms, 1e-3)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU milliseconds per 80 ms frame, for every format")
    parser.add_argument("--seconds", type=float, default=20.0, help="of audio to encode (default 20)")
    parser.add_argument("--slice-frames", type=int, default=5, help="frames in a slice of a running stream (default 5)")
    arguments = parser.parse_args()
    samples = voice_like(arguments.seconds)
    print(f"{'format':8} {'build ms':>9} {'ms/frame':>9} {'sliced':>9} {'1st bytes':>9} {'kbit/s':>7} {'per core':>8}")
    costs = [measure(audio_format, samples, arguments.slice_frames) for audio_format in FORMATS.values()]
    for cost in costs:
        print(
            f"{cost.format:8} {cost.build_ms:9.3f} {cost.one_frame_ms:9.3f} {cost.sliced_ms:9.3f} "
            f"{cost.first_bytes:9} {cost.kilobits_per_second:7.1f} {cost.streams_per_core:8}"
        )
    print(
        json.dumps(
            {
                "benchmark": "encoders",
                "seconds": arguments.seconds,
                "slice_frames": arguments.slice_frames,
                "formats": [asdict(cost) for cost in costs],
            }
        )
    )


if __name__ == "__main__":
    main()
