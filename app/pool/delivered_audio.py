"""What a reader has got of a speech, so that another worker can speak it again and the reader hears only the rest."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from engine import AudioChunk, Codes

from ..audio.encoders.base import Samples


class SpeechDiffers(Exception):
    """A speech that was generated again is not the one whose start was delivered."""


class DeliveredAudio:
    """Counts what was delivered and keeps a checksum of it, not the audio: about a microsecond for a chunk.

    The checksum is over the codes, which decide the audio; over the samples if the engine reports no codes.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.frames = 0
        self.checksum = 0
        self.mark: tuple[int, ...] = _NO_MARK  # of the last chunk

    @property
    def complete(self) -> bool:
        """The last chunk of the speech was delivered."""
        return self.mark[-1] == 1

    def add(self, chunk: AudioChunk) -> None:
        self.samples += chunk.samples.size
        self.frames += len(chunk.codes)
        self.checksum = _checksum(chunk.codes, chunk.samples, self.checksum)
        self.mark = _mark(chunk)

    def replay(self) -> Replay:
        """Skips what was delivered so far of the same speech."""
        return Replay(self.samples, self.frames, self.checksum, self.mark)


class Replay:
    """Skips the start of a speech that is generated again, in chunks of any sizes, and checks that it is equal.

    samples, frames, checksum, mark: of what is skipped.
    """

    def __init__(self, samples: int, frames: int, checksum: int, mark: tuple[int, ...]) -> None:
        self._samples = self._samples_left = samples
        self._frames_left = frames
        self._expected = checksum
        self._checksum = 0
        self._mark = mark

    @property
    def samples_skipped(self) -> int:
        return self._samples - self._samples_left

    def done(self) -> bool:
        """All that was delivered is skipped."""
        return not (self._samples_left or self._frames_left)

    def skip(self, chunk: AudioChunk) -> AudioChunk | None:
        """What is new in a chunk; None if nothing is. Raises SpeechDiffers."""
        samples, codes = chunk.samples[: self._samples_left], chunk.codes[: self._frames_left]
        if not self.done():
            self._checksum = _checksum(codes, samples, self._checksum)
            self._samples_left -= samples.size
            self._frames_left -= len(codes)
            if self.done() and self._checksum != self._expected:
                raise SpeechDiffers("the same request and seed gave other audio")
        timings = tuple(each.moved(-samples.size) for each in chunk.timings)
        rest = replace(chunk, samples=chunk.samples[samples.size :], codes=chunk.codes[len(codes) :], timings=timings)
        if rest.samples.size or len(rest.codes) or _mark(chunk) > self._mark:
            if not self.done():  # never unless the chunks of an engine hold other frames than their samples
                raise SpeechDiffers("its audio is longer than that of the same codes")
            return rest
        return None


_NO_MARK = (-1, 0, 0)


def _mark(chunk: AudioChunk) -> tuple[int, ...]:
    """Grows with every chunk that tells something besides its audio: the end of a text chunk, or of the speech."""
    return (chunk.text_chunk, int(chunk.ends_text_chunk), int(chunk.ends_speech))


def _checksum(codes: Codes, samples: Samples, start: int) -> int:
    return zlib.crc32(np.ascontiguousarray(codes if codes.shape[1] else samples).tobytes(), start)
