"""A chain of FFmpeg's audio filters that takes and gives mono float32 samples, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable

import av
import numpy as np
from av.audio.frame import AudioFrame

from engine import SAMPLE_RATE

from .encoders.base import Samples


class FilterGraph:
    """filters: name and arguments of each, in their order. The input is at the engine's rate.

    samples_in, samples_out: counted so far.
    """

    def __init__(self, filters: Iterable[tuple[str, str]]) -> None:
        self.samples_in = self.samples_out = 0
        self._graph = av.filter.Graph()
        self._source = self._graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono")
        self._sink = self._graph.add("abuffersink")
        last = self._source
        for name, arguments in filters:
            added = self._graph.add(name, arguments)
            last.link_to(added)
            last = added
        last.link_to(self._sink)
        self._graph.configure()

    def push(self, samples: Samples) -> Samples:
        """Push float32 (samples,) at 24 kHz; return the samples that are ready."""
        if not samples.size:
            return samples
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[np.newaxis]), format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = self.samples_in
        self.samples_in += samples.size
        self._source.push(frame)
        return self._pull()

    def flush(self, total: int) -> Samples:
        """The remaining samples, cut or padded with silence to `total` of output. Must not be used afterwards."""
        self._source.push(None)
        missing = max(total - self.samples_out, 0)
        tail = self._pull()[:missing]
        return np.concatenate([tail, np.zeros(missing - tail.size, np.float32)])

    def _pull(self) -> Samples:
        pulled: list[Samples] = []
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                ready = np.concatenate(pulled) if pulled else np.zeros(0, np.float32)
                self.samples_out += ready.size
                return ready
            assert isinstance(frame, AudioFrame)
            pulled.append(np.asarray(frame.to_ndarray().reshape(-1), np.float32))
