"""What the service knows of an engine. CSM, the fallback voice and the fake of the tests all are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .stream import SpeechStream
from .types import SAMPLE_RATE, Codes, EngineStatus, Samples, Speech, SpeechRequest, VoicePrompt

Progress = Callable[[float, str], None]  # (share done from 0 to 1, what is being done)


class Engine(Protocol):
    """Speaks requests, several at once. Every method may be called from any thread."""

    name: str  # what X-TTS-Engine says: "csm" or "espeak-ng"
    slots: int
    sample_rate: int
    max_voice_seconds: float | None  # the longest recording a prompt may have; None: no bound of its own

    def stream(self, request: SpeechRequest) -> SpeechStream:
        """Begin to speak; chunks come out of the answer with `for` or `async for`.

        Returns at once. Closing the answer, or dropping it, frees its slot before the next frame.
        Raises InvalidRequest or PromptTooLong if it can never be spoken, EngineClosed, EngineFailed.
        """
        ...

    def generate(self, request: SpeechRequest) -> Speech:
        """Speak and wait for the whole. Raises as `stream` does, and what iterating raises."""
        ...

    def prepare_voice(self, voice: VoicePrompt, speaker: int = 0) -> None:
        """Encode a voice ahead of its first request, and wait for it. Raises PromptTooLong."""
        ...

    def status(self) -> EngineStatus:
        """A snapshot that waits for nothing."""
        ...

    def close(self) -> None:
        """Stop at once: open streams end with EngineClosed. Waits for the engine's thread. Idempotent."""
        ...


class Encoder(Protocol):
    """The codec of a checkpoint, for making data sets of recordings. One thread at a time."""

    codebooks: int
    codebook_size: int
    fingerprint: str  # of the codec's weights: other weights make other codes

    def encode(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> Codes:
        """A mono recording, float32 (samples,), to codes int64 (frames, codebooks); the last frame is padded."""
        ...
