"""Loudness of a recording after ITU-R BS.1770, measured by FFmpeg's ebur128 filter."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

Samples = npt.NDArray[np.float32]  # (samples,)

TARGET_LUFS = -20.0  # of every voice prompt; typical of spoken recordings
MAX_PEAK = 0.99  # of full scale

_STEP = SAMPLE_RATE // 10  # samples of a frame that is given to the filter
_GATE = -70.0  # LUFS
_INTEGRATED = "lavfi.r128.I"


def integrated_loudness(samples: Samples) -> float:
    """Loudness in LUFS of mono samples at 24 kHz. Below -70 LUFS, the standard's gate, or below 0.4 s it is -70.

    FFmpeg itself writes the filter's result to a file in memory: PyAV has a frame's metadata only from 18 on.
    """
    import av  # with the first recording, as the encoders do
    from av.audio.frame import AudioFrame

    with open(os.memfd_create("loudness"), "rb") as report:
        graph = av.filter.Graph()
        source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono")
        meter = graph.add("ebur128", "metadata=1:framelog=quiet")
        writer = graph.add("ametadata", f"mode=print:key={_INTEGRATED}:direct=1:file=/proc/self/fd/{report.fileno()}")
        sink = graph.add("abuffersink")
        graph.link_nodes(source, meter, writer, sink).configure()
        for start in range(0, samples.size, _STEP):
            frame = AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[np.newaxis, start : start + _STEP]), format="flt", layout="mono"
            )
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            source.push(frame)
        source.push(None)
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                sink.pull()
        _, _, integrated = report.read().rpartition(f"{_INTEGRATED}=".encode())
    return float(integrated or _GATE)  # nothing is written before 0.1 s


def normalized(samples: Samples) -> Samples:
    """The samples at TARGET_LUFS, or as loud as MAX_PEAK allows. Independent of the level of the input."""
    peak = float(np.abs(samples).max())
    at_full_scale = samples / peak  # so that the gate does not hide a faint recording
    gain = min(10 ** ((TARGET_LUFS - integrated_loudness(at_full_scale)) / 20), MAX_PEAK)
    return np.asarray(at_full_scale * np.float32(gain), np.float32)
