"""Prepares a decoded recording as a voice prompt: trims silence, normalises loudness, and reports quality problems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine import FRAME_SAMPLES, SAMPLE_RATE

from .loudness import Samples, normalized
from .recording_decoder import DecodedRecording

NO_TRANSCRIPT = "it has no transcript: the voice is much closer with the words of the recording"

LONG_SILENCE_SECONDS = 1.0  # reported, wherever it is
MIN_SNR_DECIBELS = 20.0
_KEPT_SILENCE_SECONDS = 0.2  # at each end
_TRIMMED_SILENCE_SECONDS = 0.5  # a shorter silence at an end is left as it is
_MIN_SECONDS = 1.0  # that are left of a recording

_STEP_SECONDS = 0.01
_STEP = round(_STEP_SECONDS * SAMPLE_RATE)
_FLOOR = 1e-7  # of full scale: -140 dB, for digital silence
_WINDOW = 960  # samples of a spectrum: 40 ms
_NOISE_FLATNESS = 5e-3  # spectral flatness above this is noise; that of a steady tone is a tenth of it
_CLIPPED_SHARE = 5e-4  # of the samples; a clean recording has a few of its thousands at full scale, or none

_Decibels = npt.NDArray[np.float64]  # (steps,)


@dataclass(frozen=True, eq=False)
class PreparedRecording:
    """samples: float32 (samples,) at 24 kHz, as the model is prompted with them.

    seconds: of the whole recording. warnings: quality problems, each a sentence that says what to do.
    """

    samples: Samples
    seconds: float
    warnings: tuple[str, ...]


def prepare(recording: DecodedRecording) -> PreparedRecording:
    """Prepare a recording, not silent and at least a second long."""
    samples = recording.samples
    levels = _levels(samples)
    speech, floor = _speech_and_noise(levels)
    threshold = max(speech - 35, floor + 0.3 * (speech - floor))
    silences = list(_silences(levels, threshold))
    start, stop = _kept(samples.size, silences, len(levels))
    warnings = [
        *_clipping(recording.clipped),
        *_noise(samples, levels, speech - floor),
        *_long_silences(silences, len(levels)),
    ]
    return PreparedRecording(normalized(samples[start:stop]), samples.size / SAMPLE_RATE, tuple(warnings))


def _levels(samples: Samples) -> _Decibels:
    """RMS level of each 10 ms, in dB of full scale."""
    steps = np.pad(samples, (0, -samples.size % _STEP)).reshape(-1, _STEP).astype(np.float64)
    return np.asarray(20 * np.log10(np.sqrt((steps**2).mean(axis=1)) + _FLOOR))


def _speech_and_noise(levels: _Decibels) -> tuple[float, float]:
    """The level of the loud parts, regardless of how much silence there is, and that of the quietest ones."""
    return float(np.percentile(levels[levels > levels.max() - 40], 95)), float(np.percentile(levels, 5))


def _silences(levels: _Decibels, threshold: float) -> Iterator[tuple[int, int]]:
    """(start, stop) in steps of every stretch below the threshold."""
    quiet = np.concatenate(([False], levels < threshold, [False]))
    edges = np.flatnonzero(quiet[1:] != quiet[:-1])
    yield from ((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def _kept(size: int, silences: list[tuple[int, int]], steps: int) -> tuple[int, int]:
    """The samples to keep, as (start, stop). Whole frames are removed at the start, as the codec divides the rest."""
    kept, start, stop = round(_KEPT_SILENCE_SECONDS * SAMPLE_RATE), 0, size
    least = round(_MIN_SECONDS * SAMPLE_RATE)
    for first, last in silences:
        if (last - first) * _STEP_SECONDS < _TRIMMED_SILENCE_SECONDS:
            continue
        if first == 0:
            start = max(last * _STEP - kept, 0) // FRAME_SAMPLES * FRAME_SAMPLES
        if last == steps:
            stop = min(first * _STEP + kept, size)
    if stop - start < least:
        stop = min(max(stop, start + least), size)
        start = max(min(start, (stop - least) // FRAME_SAMPLES * FRAME_SAMPLES), 0)
    return start, stop


def _clipping(share: float) -> Iterator[str]:
    if share > _CLIPPED_SHARE:
        yield f"it is clipped: {share:.1%} of its samples are at full scale; record it again at a lower level"


def _noise(samples: Samples, levels: _Decibels, snr: float) -> Iterator[str]:
    """A steady tone is as even as noise; their spectra differ."""
    if snr >= MIN_SNR_DECIBELS:
        return
    whole = samples[: samples.size // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    quietest = whole[np.argsort((whole.astype(np.float64) ** 2).mean(axis=1))[: max(1, len(whole) // 10)]]
    power = np.abs(np.fft.rfft(quietest * np.hanning(_WINDOW), axis=1)) ** 2 + 1e-20
    flatness = np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1)
    if np.median(flatness) > _NOISE_FLATNESS:
        yield (
            f"it is noisy: the speech is {snr:.0f} dB louder than the noise; record it closer to the microphone or in "
            f"a quieter place, since below {MIN_SNR_DECIBELS:.0f} dB the noise becomes part of the voice"
        )


def _long_silences(silences: list[tuple[int, int]], steps: int) -> Iterator[str]:
    for first, last in silences:
        seconds = (last - first) * _STEP_SECONDS
        if seconds <= LONG_SILENCE_SECONDS:
            continue
        if first == 0 or last == steps:
            yield f"it {'begins' if first == 0 else 'ends'} with {seconds:.1f} s of silence, which is left out"
        else:
            yield f"it has a pause of {seconds:.1f} s at {first * _STEP_SECONDS:.1f} s of silence: cut it out"
