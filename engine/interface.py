"""The interface of an engine. Implemented by CSM, the fallbacks (Kokoro, espeak-ng) and the tests' fake engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .stream import SpeechStream
from .types import SAMPLE_RATE, Codes, EngineStatus, Samples, Speech, SpeechRequest, VoicePrompt

Progress = Callable[[float, str], None]  # (fraction done from 0 to 1, current activity)


class Engine(Protocol):
    """Synthesizes several requests at once. Every method may be called from any thread."""

    name: str  # value of the X-TTS-Engine header: "csm", "kokoro" or "espeak-ng"
    slots: int
    sample_rate: int
    max_voice_seconds: float | None  # of a voice recording; None: no limit

    def stream(self, request: SpeechRequest) -> SpeechStream:
        """Start a request and return its stream at once; iterate it with `for` or `async for`.

        Closing or dropping the stream frees its slot before the next frame.
        Raises InvalidRequest or PromptTooLong if the request can never be served, EngineClosed, EngineFailed.
        """
        ...

    def generate(self, request: SpeechRequest) -> Speech:
        """Synthesize the whole request. Raises as `stream` and its iteration do."""
        ...

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        """Encode and cache a voice before its first request, and wait for it. Raises PromptTooLong."""
        ...

    def encode(self, voice: VoicePrompt) -> Codes | None:
        """The codes (frames, codebooks) of any recording, to be a segment of a history; None without a codec.

        Waits for them. Raises PromptTooLong for a recording that no context can hold, EngineClosed.
        """
        ...

    def status(self) -> EngineStatus:
        """A snapshot; does not block."""
        ...

    def close(self) -> None:
        """Stop at once: open streams end with EngineClosed. Waits for the engine thread. Idempotent."""
        ...


class Encoder(Protocol):
    """The codec of a checkpoint, to encode recordings for data sets. Use from one thread at a time."""

    codebooks: int
    codebook_size: int
    fingerprint: str  # of the codec's weights: other weights give other codes

    def encode(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> Codes:
        """Encode mono float32 (samples,) to codes int64 (frames, codebooks); the last frame is padded."""
        ...
