"""Decodes audio files to mono float32 samples at 24 kHz, with properties of the source file."""

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
from av.container import InputContainer

from engine import SAMPLE_RATE

from .errors import RecordingsError

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".webm", ".aiff", ".aif")
MAX_SECONDS = 4 * 3600.0  # per file: 1.4 GB of samples

# Allowed demuxers: audio containers only, since a playlist named .wav would make FFmpeg open other files.
_DEMUXERS = "wav,w64,flac,mp3,ogg,mov,matroska,aiff"
# PyAV before 19 refuses a file whose tags are not UTF-8 unless told to replace what it cannot decode. Later releases
# never refuse one, and have no such argument.
_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}
_NEAR_PEAK = 0.999


@dataclass(frozen=True, eq=False)
class Audio:
    """A decoded recording.

    samples: float32 (samples,), mono at 24 kHz. sample_rate, channels: of the file.
    peak_share: share of the file's samples at its peak level; a value far above 0 means clipping.
    sha256: of the file's bytes.
    """

    samples: Samples
    sample_rate: int
    channels: int
    peak_share: float
    sha256: str

    @property
    def seconds(self) -> float:
        return float(self.samples.size / SAMPLE_RATE)


def read_audio(path: Path) -> Audio:
    """Decode the first audio stream of a file and average its channels.

    Raises RecordingsError with the reason if it cannot be decoded; OSError.
    """
    with path.open("rb") as file:
        sha256 = file_sha256(file)
        file.seek(0)
        try:
            with av.open(
                file,
                mode="r",
                container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
                io_open=_refuse_open,
                **_TAGS,
            ) as container:
                if not container.streams.audio:
                    raise RecordingsError("the file has no audio stream")
                return _decode(container.decode(container.streams.audio[0]), sha256)
        except (av.FFmpegError, ValueError, ArithmeticError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RecordingsError(f"the file cannot be decoded ({reason})") from error


def file_sha256(file: BinaryIO) -> str:
    """SHA-256 of the file from its current position to its end."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _refuse_open(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError("a recording must not open other files")


def _decode(frames: Iterator[AudioFrame], sha256: str) -> Audio:
    chunks: list[Samples] = []
    peaks = _PeakCounter()
    resampler: AudioResampler | None = None
    source: tuple[object, ...] = ()
    seconds = 0.0
    rate = channels = 0
    for frame in frames:
        peaks.update(frame.to_ndarray())
        current = (frame.sample_rate, frame.format.name, frame.layout.name)
        if resampler is None or current != source:  # the format may change mid-file; a resampler's may not
            chunks += _to_mono(resampler.resample(None)) if resampler else []
            resampler = AudioResampler(format="fltp", layout=frame.layout, rate=SAMPLE_RATE)
            source, rate, channels = current, frame.sample_rate, frame.layout.nb_channels
        seconds += frame.samples / frame.sample_rate
        if seconds > MAX_SECONDS:
            raise RecordingsError(
                f"the recording is longer than {MAX_SECONDS / 3600:g} hours: split it into several files"
            )
        chunks += _to_mono(resampler.resample(frame))
    if resampler is None:
        raise RecordingsError("the file contains no audio frames")
    chunks += _to_mono(resampler.resample(None))
    samples = np.concatenate(chunks)
    if not np.isfinite(samples).all():
        raise RecordingsError("the recording contains samples that are not finite numbers: export it again")
    return Audio(samples, rate, channels, peaks.share, sha256)


def _to_mono(frames: list[AudioFrame]) -> list[Samples]:
    """Average each (channels, samples) frame over its channels."""
    return [frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames]


class _PeakCounter:
    """Counts the samples at the peak level in one pass."""

    def __init__(self) -> None:
        self._peak = 0.0
        self._at_peak = self._total = 0

    def update(self, values: npt.NDArray[Any]) -> None:
        """values: a decoded frame in the codec's own sample format."""
        loud = np.abs(values.astype(np.float32) - (128 if values.dtype == np.uint8 else 0))
        peak = float(loud.max(initial=0.0))
        if peak * _NEAR_PEAK > self._peak:  # a new peak: the samples counted so far were below it
            self._at_peak = 0
        self._peak = max(self._peak, peak)
        self._at_peak += int(np.count_nonzero(loud >= _NEAR_PEAK * self._peak)) if self._peak else 0
        self._total += loud.size

    @property
    def share(self) -> float:
        return self._at_peak / self._total if self._total else 0.0
