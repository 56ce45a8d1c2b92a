"""From what espeak-ng says to what a listener gets: resampled to 24 kHz and cut into slices. No espeak here."""

from __future__ import annotations

from collections import deque

import av
import numpy as np

from ..types import FRAME_SAMPLES, SAMPLE_RATE, AudioChunk, Samples, SpeechRequest
from .espeak_library import RATE, Pcm


class Upsampler:
    """22,050 Hz 16-bit to 24 kHz float32, piece by piece as if it were one."""

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


class Slicer:
    """Cuts samples into slices: small ones first, growing; whole frames, but for a text chunk's last.

    A slice goes out once there is more behind it, so that the last one always knows that it is the last.
    """

    def __init__(self, request: SpeechRequest) -> None:
        self._slice_frames = request.first_slice_frames
        self._most_slice_frames = request.slice_frames
        self._frames_left = request.max_frames
        self._pieces: deque[Samples] = deque()
        self._waiting = 0  # samples in the pieces
        self._text_chunk = -1
        self._is_last = False
        self._chunk_ended = True
        self.speech_ended = False

    def begin_chunk(self, is_last: bool) -> None:
        self._text_chunk += 1
        self._is_last, self._chunk_ended = is_last, False

    def push(self, samples: Samples) -> None:
        if samples.size:
            self._pieces.append(samples)
            self._waiting += samples.size

    def end_chunk(self, is_last: bool) -> None:
        """No more samples of this text chunk. `is_last` may come as news."""
        self._is_last, self._chunk_ended = is_last, True

    @property
    def wants_chunk(self) -> bool:
        """All of the last text chunk has been taken, and more may follow."""
        return self._chunk_ended and not self._waiting and not self.speech_ended

    def take(self) -> AudioChunk | None:
        """The next slice; None while there is not enough for one."""
        if self.speech_ended:
            return None
        bound = None if self._frames_left is None else self._frames_left * FRAME_SAMPLES
        size = self._slice_frames * FRAME_SAMPLES
        if bound is not None and size >= bound and self._waiting >= bound:
            return self._cut(bound, ends_chunk=True, ends_speech=True)
        if self._waiting > size:
            return self._cut(size, ends_chunk=False, ends_speech=False)
        if self._chunk_ended and (self._waiting or self._is_last):
            return self._cut(self._waiting, ends_chunk=True, ends_speech=self._is_last)
        return None

    def _cut(self, size: int, ends_chunk: bool, ends_speech: bool) -> AudioChunk:
        frames = -(-size // FRAME_SAMPLES)
        if self._frames_left is not None:
            self._frames_left -= frames
            ends_speech = ends_speech or self._frames_left == 0
        self._slice_frames = min(2 * self._slice_frames, self._most_slice_frames)
        self.speech_ended = ends_speech
        return AudioChunk(
            samples=self._pop(size),
            codes=np.zeros((frames, 0), np.int64),
            text_chunk=self._text_chunk,
            in_last_text_chunk=self._is_last,
            ends_text_chunk=ends_chunk,
            ends_speech=ends_speech,
        )

    def _pop(self, size: int) -> Samples:
        taken: list[Samples] = []
        missing = size
        while missing:
            piece = self._pieces.popleft()
            taken.append(piece[:missing])
            if piece.size > missing:
                self._pieces.appendleft(piece[missing:])
            missing -= taken[-1].size
        self._waiting -= size
        return np.concatenate(taken) if taken else np.zeros(0, np.float32)
