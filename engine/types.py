"""What goes into the engine and what comes out: plain dataclasses, numpy, no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest

SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1920  # 80 ms: one frame of Mimi at 12.5 Hz
FRAME_MILLISECONDS = 80

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1
Codes = npt.NDArray[np.int64]  # (frames, codebooks)


@dataclass(frozen=True, eq=False)
class VoicePrompt:
    """A recording to speak like, best with the words that are said in it.

    samples: float32 (samples,) mono, or (samples, channels), in -1..1.
    transcript: the words of the recording; empty if they are not known.
    sample_rate: of the recording in Hz; the engine resamples to 24 kHz.
    speaker: the speaker id that the prompt is written under; None takes the request's.
    """

    samples: Samples
    transcript: str = ""
    sample_rate: int = SAMPLE_RATE
    speaker: int | None = None

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples, dtype=np.float32)
        if samples.ndim == 2:
            samples = samples.mean(axis=1)
        if samples.ndim != 1 or samples.size == 0:
            raise InvalidRequest("voice.samples must hold at least one sample, as (samples,) or (samples, channels)")
        if not np.isfinite(samples).all():
            raise InvalidRequest("voice.samples holds values that are not finite")
        if self.sample_rate <= 0:
            raise InvalidRequest(f"voice.sample_rate must be above 0 Hz, not {self.sample_rate}")
        object.__setattr__(self, "samples", samples)

    @property
    def seconds(self) -> float:
        return float(self.samples.size / self.sample_rate)

    @cached_property
    def key(self) -> str:
        """The content as a name: equal recordings with equal transcripts have equal keys."""
        digest = hashlib.sha256(np.ascontiguousarray(self.samples).tobytes())
        digest.update(f"{self.sample_rate}\0{self.speaker}\0{self.transcript}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class SpeechSegment:
    """Something that was said before, by the same speaker or another: what a request may follow on from.

    codes: int64 (frames, codebooks), as Speech and AudioChunk carry them.
    """

    text: str
    codes: Codes
    speaker: int = 0


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also false for nan
        raise InvalidRequest(f"{name} must be from {low} to {high}, not {value}")


@dataclass(frozen=True)
class SpeechRequest:
    """One text to be spoken in one voice. Field by field as in the service's contract (API.md section 1).

    Raises InvalidRequest where a value is out of range.
    """

    text: str
    speaker: int = 0
    voice: VoicePrompt | None = None
    history: tuple[
        SpeechSegment, ...
    ] = ()  # a conversation so far, oldest first; the newest of it that fits is context
    temperature: float = 0.8  # 0 is greedy
    top_k: int = 50
    guidance: float = 0.0  # classifier-free: cond + w * (cond - uncond); above 0 takes two rows
    exaggeration: float = 0.5  # scales the first codebook's temperature by 0.5 + this
    seed: int | None = None
    max_frames: int | None = None  # bound on the whole answer, beside the bound each text chunk has
    chunk_characters: int = 150  # most characters of one text chunk
    slice_frames: int = 5  # frames in an emitted chunk of audio once the stream runs
    first_slice_frames: int = 1  # ... and in the first; the sizes between grow
    overlap: Literal["full", "zero"] = "full"  # full: codec state and context run on through text chunks
    crossfade_milliseconds: int = 0
    trim_start_milliseconds: int = 0
    trim_end_milliseconds: int = 0
    ignore_stop: bool = False  # speak max_frames whatever the model says: for benchmarks

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InvalidRequest("text is empty: send at least one character to speak")
        _within("speaker", self.speaker, 0, 999)
        _within("temperature", self.temperature, 0.0, 2.0)
        _within("top_k", self.top_k, 1, 1_000_000)
        _within("guidance", self.guidance, 0.0, 3.0)
        _within("exaggeration", self.exaggeration, 0.0, 1.0)
        _within("chunk_characters", self.chunk_characters, 20, 1000)
        _within("slice_frames", self.slice_frames, 1, 125)
        _within("first_slice_frames", self.first_slice_frames, 1, 125)
        _within("crossfade_milliseconds", self.crossfade_milliseconds, 0, 500)
        if self.max_frames is not None and self.max_frames < 1:
            raise InvalidRequest(f"max_frames must be at least 1, not {self.max_frames}")
        if self.ignore_stop and self.max_frames is None:
            raise InvalidRequest("ignore_stop needs max_frames: without either a request would never end")
        if min(self.trim_start_milliseconds, self.trim_end_milliseconds) < 0:
            raise InvalidRequest("trim_start_milliseconds and trim_end_milliseconds must not be negative")
        if self.overlap not in ("full", "zero"):
            raise InvalidRequest(f"overlap must be 'full' or 'zero', not {self.overlap!r}")


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """A piece of audio, ready to be heard.

    samples: float32 (samples,) at 24 kHz.
    codes: int64 (frames, codebooks), the frames it was decoded from; (frames, 0) from an engine without codes.
    text_chunk: which chunk of the text it belongs to, from 0.
    in_last_text_chunk: that is the last chunk of the text.
    ends_text_chunk: nothing more of that text chunk follows.
    ends_speech: nothing more follows at all; such a chunk may have no samples.
    """

    samples: Samples
    codes: Codes
    text_chunk: int = 0
    in_last_text_chunk: bool = False
    ends_text_chunk: bool = False
    ends_speech: bool = False


@dataclass(frozen=True, eq=False)
class Speech:
    """A whole answer: samples float32 (samples,), codes int64 (frames, codebooks)."""

    samples: Samples
    codes: Codes
    sample_rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        return float(self.samples.size / self.sample_rate)


@dataclass(frozen=True)
class EngineStatus:
    """How an engine is doing, for /health and /system-status."""

    engine: str  # "csm" or "espeak-ng"
    device: str
    slots: int
    active: int = 0  # slots that are taken
    queued: int = 0  # requests that wait for one
    error: str | None = None  # why it can speak no more; None while it can
    stalled_seconds: float = 0.0  # since its thread last came round, while there is work; far over a frame: it hangs
    detail: dict[str, object] = field(default_factory=dict)  # model, dtype, memory: for people
