"""Requests, audio and status: the engine's inputs and outputs as plain dataclasses. numpy, no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest
from .lexicon import Lexicon
from .text_feed import TextFeed
from .timing import TextTiming

SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1920  # 80 ms: one frame of Mimi at 12.5 Hz
FRAME_MILLISECONDS = 80

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1
Codes = npt.NDArray[np.int64]  # (frames, codebooks)


class CodesStore(Protocol):
    """Keeps codes of recordings for engines elsewhere. Called on the thread that encodes; may block briefly.

    content: VoicePrompt.key of the recording. codec: identifies the codec that the codes belong to.
    """

    def load(self, content: str, codec: str) -> Codes | None:
        """The codes, not checked; None if there are none, or they cannot be read."""
        ...

    def save(self, content: str, codec: str, codes: Codes) -> None:
        """Keep the codes; an error is the store's own matter."""
        ...


@dataclass(frozen=True, eq=False)
class VoicePrompt:
    """A recording of the voice to clone, best with its transcript.

    samples: float32 (samples,) mono, or (samples, channels), in -1..1.
    transcript: the words of the recording; empty if unknown.
    sample_rate: of the recording in Hz; the engine resamples to 24 kHz.
    speaker: the speaker id of the prompt's segment; None: the request's.
    codes_store: where codes of the recording may be found, and are kept once it is encoded.
    """

    samples: Samples
    transcript: str = ""
    sample_rate: int = SAMPLE_RATE
    speaker: int | None = None
    codes_store: CodesStore | None = None

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples, dtype=np.float32)
        if samples.ndim == 2:
            samples = samples.mean(axis=1)
        if samples.ndim != 1 or samples.size == 0:
            raise InvalidRequest("voice.samples must hold at least one sample, as (samples,) or (samples, channels)")
        if not np.isfinite(samples).all():
            raise InvalidRequest("voice.samples contains values that are not finite")
        if self.sample_rate <= 0:
            raise InvalidRequest(f"voice.sample_rate must be above 0 Hz, not {self.sample_rate}")
        object.__setattr__(self, "samples", samples)

    @property
    def seconds(self) -> float:
        return float(self.samples.size / self.sample_rate)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the content: equal samples, sample rate, speaker and transcript have equal keys."""
        digest = hashlib.sha256(np.ascontiguousarray(self.samples).tobytes())
        digest.update(f"{self.sample_rate}\0{self.speaker}\0{self.transcript}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class SpeechSegment:
    """An earlier utterance of a conversation, by any speaker, as context for a request.

    codes: int64 (frames, codebooks), as Speech and AudioChunk carry them.
    """

    text: str
    codes: Codes
    speaker: int = 0


@dataclass(frozen=True, eq=False)
class DialogueTurn:
    """What one speaker of a dialogue says.

    text: may hold pauses and SSML, as that of a request.
    speaker: the speaker id; different voices of a dialogue need different ones.
    gap_milliseconds: of silence before it, from -5000 to 10000; of the first turn without effect. If it is negative,
        the turn begins so much before the end of all that was said until then, but not before the last turn, and is
        mixed with it.
    """

    text: str
    speaker: int = 0
    voice: VoicePrompt | None = None
    gap_milliseconds: int = 0


MIN_GAP_MILLISECONDS, MAX_GAP_MILLISECONDS = -5_000, 10_000


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not low <= value <= high:  # also false for nan
        raise InvalidRequest(f"{name} must be from {low} to {high}, not {value}")


@dataclass(frozen=True)
class SpeechRequest:
    """One text to synthesize in one voice, or a dialogue; the fields are those of the HTTP contract (docs/api.md).

    turns: of a dialogue. Its text is then that of all turns, a line each, and has to be left empty; its speakers and
        voices are the turns' own.
    Raises InvalidRequest if a value is out of range.
    """

    text: str = ""  # may hold pauses and SSML (engine.text.ssml)
    speaker: int = 0
    voice: VoicePrompt | None = None
    turns: tuple[DialogueTurn, ...] = ()
    normalize: bool = False  # text as people write it becomes text as it is said (English)
    lexicon: Lexicon | None = None  # replaces words before that
    history: tuple[
        SpeechSegment, ...
    ] = ()  # the conversation so far, oldest first; the newest segments that fit are context
    temperature: float = 0.8  # 0 is greedy
    top_k: int = 50
    guidance: float = 0.0  # classifier-free: cond + w * (cond - uncond); above 0 takes two rows
    exaggeration: float = 0.5  # scales the first codebook's temperature by 0.5 + this
    seed: int | None = None
    max_frames: int | None = None  # limit on the whole request, pauses included, beside that of each text chunk
    chunk_characters: int = 150  # maximum length of one text chunk
    slice_frames: int = 5  # frames of an AudioChunk in steady state
    first_slice_frames: int = 1  # frames of the first AudioChunk; sizes grow in between
    overlap: Literal["full", "zero"] = "full"  # full: context and codec state continue through text chunks
    crossfade_milliseconds: int = 0
    trim_start_milliseconds: int = 0
    trim_end_milliseconds: int = 0
    timestamps: bool = False  # tell when each text chunk and its words are said
    ignore_stop: bool = False  # generate exactly max_frames, ignoring stop frames; for benchmarks
    more: TextFeed | None = None  # what follows the text, part by part, while it is written; the slot waits for it

    def __post_init__(self) -> None:
        if self.turns:
            self._check_turns()
            object.__setattr__(self, "text", "\n".join(turn.text for turn in self.turns))
        if not self.text.strip():
            raise InvalidRequest("text is empty: send at least one character to speak")
        _check_range("speaker", self.speaker, 0, 999)
        _check_range("temperature", self.temperature, 0.0, 2.0)
        _check_range("top_k", self.top_k, 1, 1_000_000)
        _check_range("guidance", self.guidance, 0.0, 3.0)
        _check_range("exaggeration", self.exaggeration, 0.0, 1.0)
        _check_range("chunk_characters", self.chunk_characters, 20, 1000)
        _check_range("slice_frames", self.slice_frames, 1, 125)
        _check_range("first_slice_frames", self.first_slice_frames, 1, 125)
        _check_range("crossfade_milliseconds", self.crossfade_milliseconds, 0, 500)
        if self.max_frames is not None and self.max_frames < 1:
            raise InvalidRequest(f"max_frames must be at least 1, not {self.max_frames}")
        if self.ignore_stop and self.max_frames is None:
            raise InvalidRequest("ignore_stop needs max_frames: without either a request would never end")
        if self.ignore_stop and self.more is not None:
            raise InvalidRequest("ignore_stop is for complete texts: set more to None")
        if self.timestamps and self.more is not None:
            raise InvalidRequest("timestamps are for complete texts: set more to None")
        if min(self.trim_start_milliseconds, self.trim_end_milliseconds) < 0:
            raise InvalidRequest("trim_start_milliseconds and trim_end_milliseconds must not be negative")
        if self.overlap not in ("full", "zero"):
            raise InvalidRequest(f"overlap must be 'full' or 'zero', not {self.overlap!r}")

    def _check_turns(self) -> None:
        for number, turn in enumerate(self.turns, start=1):
            if not turn.text.strip():
                raise InvalidRequest(f"turn {number} is empty: send at least one character to speak")
            _check_range(f"speaker of turn {number}", turn.speaker, 0, 999)
            _check_range(
                f"gap_milliseconds of turn {number}", turn.gap_milliseconds, MIN_GAP_MILLISECONDS, MAX_GAP_MILLISECONDS
            )
        if self.voice is not None or self.more is not None or self.ignore_stop:
            raise InvalidRequest("a dialogue has the voices and texts of its turns: leave voice, more and ignore_stop")

    def turn(self, part: int) -> DialogueTurn:
        """The turn that a part of the text is; of a text that is no dialogue all of it is one turn."""
        return self.turns[part] if self.turns else DialogueTurn(self.text, self.speaker, self.voice)

    @property
    def voices(self) -> tuple[tuple[VoicePrompt, int], ...]:
        """The recordings to prompt with, each once and with its segment's speaker id, as they are first needed.

        It hashes their samples.
        """
        found: dict[tuple[str, int], tuple[VoicePrompt, int]] = {}
        for turn in self.turns or (self.turn(0),):
            if turn.voice is not None:
                speaker = turn.speaker if turn.voice.speaker is None else turn.voice.speaker
                found.setdefault((turn.voice.key, speaker), (turn.voice, speaker))
        return tuple(found.values())


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """A piece of audio that is ready to play.

    samples: float32 (samples,) at 24 kHz.
    codes: int64 (frames, codebooks), the frames that it was decoded from; (frames, 0) from an engine without codes.
    text_chunk: index of its text chunk, from 0.
    in_last_text_chunk: its text chunk is the last of the text.
    ends_text_chunk: it is the last piece of its text chunk.
    ends_speech: it is the last piece of the speech; it may have no samples.
    text_part, ends_text_part: the turn of a dialogue, from 0, and whether it is the last piece of that turn. Where more
        text follows (SpeechRequest.more): the index of the part that it speaks, 0 for the request's text, and whether
        it is the last piece of that part. The last piece may have no samples.
    pause_before, pause_after: samples of silence around it; SpeechStream turns them into samples.
    timings: of the text chunks that end with it, if the request asks for timestamps. An engine counts from the text
        chunk's first sample; SpeechStream from the first sample of this object.
    """

    samples: Samples
    codes: Codes
    text_chunk: int = 0
    in_last_text_chunk: bool = False
    ends_text_chunk: bool = False
    ends_speech: bool = False
    pause_before: int = 0
    pause_after: int = 0
    timings: tuple[TextTiming, ...] = ()
    text_part: int = 0
    ends_text_part: bool = False


@dataclass(frozen=True, eq=False)
class Speech:
    """Complete audio: samples float32 (samples,), codes int64 (frames, codebooks)."""

    samples: Samples
    codes: Codes
    sample_rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        return float(self.samples.size / self.sample_rate)


@dataclass(frozen=True)
class EngineStatus:
    """An engine's state, for /health and /system-status."""

    engine: str  # "csm", "kokoro" or "espeak-ng"
    device: str
    slots: int
    active: int = 0  # slots in use
    queued: int = 0  # requests that wait for a slot
    error: str | None = None  # why it has failed for good; None while it works
    stalled_seconds: float = 0.0  # age of the current loop iteration; far over a frame means a hang
    detail: dict[str, object] = field(default_factory=dict)  # model, dtype, memory; for display
