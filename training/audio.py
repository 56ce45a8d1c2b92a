"""Recordings of the user's own: from a file to mono samples at 24 kHz, and what the file itself was like."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from engine import SAMPLE_RATE

from .errors import RecordingsError

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".webm", ".aiff", ".aif")
MOST_SECONDS = 4 * 3600.0  # of one file: 1.4 GB as samples

# Containers of sound and nothing else: a playlist that calls itself .wav would have other files opened.
_DEMUXERS = "wav,w64,flac,mp3,ogg,mov,matroska,aiff"
_NEAR_PEAK = 0.999


@dataclass(frozen=True, eq=False)
class Audio:
    """samples: float32 (samples,), mono at 24 kHz. sample_rate, channels: of the file.

    at_peak: share of the file's samples that are as loud as its loudest; far above 0 the tops were cut off.
    sha256: of the file's bytes.
    """

    samples: Samples
    sample_rate: int
    channels: int
    at_peak: float
    sha256: str

    @property
    def seconds(self) -> float:
        return float(self.samples.size / SAMPLE_RATE)


def read_audio(path: Path) -> Audio:
    """Decode the first audio stream of a file, its channels mixed to one.

    Raises RecordingsError, which says why it cannot be decoded; OSError.
    """
    with path.open("rb") as file:
        sha256 = file_sha256(file)
        file.seek(0)
        try:
            with av.open(
                file,
                mode="r",
                container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
                io_open=_open_nothing,
            ) as container:
                if not container.streams.audio:
                    raise RecordingsError("there is no audio in it")
                return _decoded(container.decode(container.streams.audio[0]), sha256)
        except (av.FFmpegError, ValueError, ArithmeticError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RecordingsError(f"it cannot be decoded ({reason})") from error


def file_sha256(file: BinaryIO) -> str:
    """Of everything from where the file stands."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _open_nothing(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError("a recording may not open other files")


def _decoded(frames: Iterator[AudioFrame], sha256: str) -> Audio:
    pieces: list[Samples] = []
    tops = _Tops()
    resampler: AudioResampler | None = None
    source: tuple[object, ...] = ()
    seconds = 0.0
    rate = channels = 0
    for frame in frames:
        tops.hear(frame.to_ndarray())
        now = (frame.sample_rate, frame.format.name, frame.layout.name)
        if resampler is None or now != source:  # files may change their mind half-way, resamplers not
            pieces += _mixed(resampler.resample(None)) if resampler else []
            resampler = AudioResampler(format="fltp", layout=frame.layout, rate=SAMPLE_RATE)
            source, rate, channels = now, frame.sample_rate, frame.layout.nb_channels
        seconds += frame.samples / frame.sample_rate
        if seconds > MOST_SECONDS:
            raise RecordingsError(f"it plays for more than {MOST_SECONDS / 3600:g} hours: divide it into several files")
        pieces += _mixed(resampler.resample(frame))
    if resampler is None:
        raise RecordingsError("there is nothing in it to play")
    pieces += _mixed(resampler.resample(None))
    samples = np.concatenate(pieces)
    if not np.isfinite(samples).all():
        raise RecordingsError("it holds samples that are not finite numbers: export it again")
    return Audio(samples, rate, channels, tops.share, sha256)


def _mixed(frames: list[AudioFrame]) -> list[Samples]:
    """(channels, samples) of each to its mean over the channels."""
    return [frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames]


class _Tops:
    """Counts the samples that are as loud as the loudest so far."""

    def __init__(self) -> None:
        self._peak = 0.0
        self._at_peak = self._all = 0

    def hear(self, values: npt.NDArray[Any]) -> None:
        """values: a decoded frame in whatever format its codec has."""
        loud = np.abs(values.astype(np.float32) - (128 if values.dtype == np.uint8 else 0))
        peak = float(loud.max(initial=0.0))
        if peak * _NEAR_PEAK > self._peak:  # what counted until now was not the top
            self._at_peak = 0
        self._peak = max(self._peak, peak)
        self._at_peak += int(np.count_nonzero(loud >= _NEAR_PEAK * self._peak)) if self._peak else 0
        self._all += loud.size

    @property
    def share(self) -> float:
        return self._at_peak / self._all if self._all else 0.0
