"""Resamples espeak-ng's audio to 24 kHz and cuts it into slices for the audio queue."""

from __future__ import annotations

from collections import deque

import av
import numpy as np

from ..timing import TextTiming, Word
from ..types import FRAME_SAMPLES, SAMPLE_RATE, AudioChunk, Samples, SpeechRequest
from .espeak_library import RATE, Pcm


class Resampler:
    """Streaming resampler from 22,050 Hz 16-bit to 24 kHz float32, equal to resampling everything at once."""

    def __init__(self) -> None:
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    def push(self, pcm: Pcm) -> Samples:
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        return self._resampled(frame)

    def flush(self) -> Samples:
        return self._resampled(None)

    def _resampled(self, frame: av.AudioFrame | None) -> Samples:
        pieces = [piece.to_ndarray()[0] for piece in self._resampler.resample(frame)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


class AudioSlicer:
    """Cuts samples into slices of growing size, in whole frames except for the last slice of a text chunk.

    A slice is returned only once more samples follow it, so that the last slice is always marked as the last.
    """

    def __init__(self, request: SpeechRequest) -> None:
        self._slice_frames = request.first_slice_frames
        self._max_slice_frames = request.slice_frames
        self._frames_left = request.max_frames
        self._pieces: deque[Samples] = deque()
        self._buffered = 0  # samples in _pieces
        self._timestamps = request.timestamps
        self.chunk_samples = 0  # pushed of this text chunk
        self.words: list[Word] = []  # of this text chunk, as far as they are in the samples or not placed
        self._text_chunk = -1
        self._is_last = False
        self._chunk_ended = True
        self._pause_before = self._pause_after = 0
        self._part, self._ends_part = 0, False
        self.speech_ended = False

    def begin_chunk(self, is_last: bool, pause_before: int = 0, part: int = 0) -> None:
        """pause_before: samples of silence before the first chunk of a part. part: index of its part of the text."""
        self._text_chunk += 1
        self.chunk_samples, self.words = 0, []
        self._part, self._ends_part = part, False
        self._is_last, self._chunk_ended = is_last, False
        self._pause_before += pause_before + self._pause_after  # of a chunk without any audio
        self._pause_after = 0

    def push(self, samples: Samples) -> None:
        if samples.size:
            self._pieces.append(samples)
            self._buffered += samples.size
            self.chunk_samples += samples.size

    def end_chunk(self, is_last: bool, pause_after: int = 0, ends_part: bool = False) -> None:
        """Mark the text chunk as complete. `is_last` overrides the value given to `begin_chunk`.

        pause_after: samples of silence that follow it. ends_part: it is the last of its part of the text.
        """
        self._is_last, self._chunk_ended, self._ends_part = is_last, True, ends_part
        self._pause_after = pause_after

    @property
    def needs_chunk(self) -> bool:
        """True if the last text chunk has been taken completely and the speech goes on."""
        return self._chunk_ended and not (self._buffered or self._ends_part or self.speech_ended)

    def take(self) -> AudioChunk | None:
        """Return the next slice, or None if not enough samples are buffered."""
        if self.speech_ended:
            return None
        limit = None if self._frames_left is None else self._frames_left * FRAME_SAMPLES
        size = self._slice_frames * FRAME_SAMPLES
        if limit is not None and size >= limit and self._buffered >= limit:
            return self._cut(limit, ends_chunk=True, ends_speech=True)
        if self._buffered > size:
            return self._cut(size, ends_chunk=False, ends_speech=False)
        if self._chunk_ended and (self._buffered or self._is_last or self._ends_part):
            return self._cut(self._buffered, ends_chunk=True, ends_speech=self._is_last)
        return None

    def _cut(self, size: int, ends_chunk: bool, ends_speech: bool) -> AudioChunk:
        frames = -(-size // FRAME_SAMPLES)
        if self._frames_left is not None:
            self._frames_left -= frames
            ends_speech = ends_speech or self._frames_left == 0
        self._slice_frames = min(2 * self._slice_frames, self._max_slice_frames)
        self.speech_ended = ends_speech
        before, self._pause_before = self._pause_before, 0
        after = 0
        ends_part = False
        timings: tuple[TextTiming, ...] = ()
        if ends_chunk:
            ends_part, self._ends_part = self._ends_part, False
            after, self._pause_after = self._pause_after, 0
            timings = self._timings(self.chunk_samples - self._buffered + size)
        return AudioChunk(
            samples=self._pop(size),
            codes=np.zeros((frames, 0), np.int64),
            text_chunk=self._text_chunk,
            in_last_text_chunk=self._is_last,
            ends_text_chunk=ends_chunk,
            ends_speech=ends_speech,
            pause_before=before,
            pause_after=after,
            timings=timings,
            text_part=self._part,
            ends_text_part=ends_part,
        )

    def _timings(self, samples: int) -> tuple[TextTiming, ...]:
        """Of the text chunk, which ends after so many samples."""
        if not self._timestamps:
            return ()
        return (TextTiming(tuple(self.words), 0, self.chunk_samples).clipped(0, samples),)

    def _pop(self, size: int) -> Samples:
        taken: list[Samples] = []
        missing = size
        while missing:
            piece = self._pieces.popleft()
            taken.append(piece[:missing])
            if piece.size > missing:
                self._pieces.appendleft(piece[missing:])
            missing -= taken[-1].size
        self._buffered -= size
        return np.concatenate(taken) if taken else np.zeros(0, np.float32)
