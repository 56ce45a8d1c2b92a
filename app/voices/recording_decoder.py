"""Decodes untrusted recordings to voice samples in a sandboxed process.

All but eight container formats are rejected here. Decoding runs in another process (app/voices/decoder_process.py) with
limits on memory, CPU time and wall time, and its samples are validated on this side.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from ..errors import Busy, NotAudio, ServiceError, TooLarge, UndecodableAudio, Unprocessable
from . import decoder_framing as framing
from .decoder_client import WALL_SECONDS, DecoderClient
from .decoder_starts import DecoderStartPolicy
from .recording_format import FORMATS, sniff

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1

MIN_SECONDS = 1.0
SILENCE_THRESHOLD = 1e-4  # of full scale: a standard deviation below it, -80 dB, is silence
MEBIBYTE = 1 << 20

_decoder_slots = threading.BoundedSemaphore(2)  # concurrent decoders per worker: speech generation needs the CPU


class DecodedRecording(NamedTuple):
    """samples: float32 (samples,) at 24 kHz, mono, in -1..1. clipped: share of the file's samples at full scale."""

    samples: Samples
    clipped: float


class VoiceDecoder:
    """Decodes recordings one at a time; a context manager, not thread-safe.

    Each upload uses a new one; the files of a directory share one, so that many voices load quickly. Its process lives
    as `DecoderClient` says, and ends with the block.
    Entering raises Busy if two others are running and neither ends within WALL_SECONDS.
    max_bytes, min_seconds, max_seconds: limits of a recording, encoded and decoded.
    starts: start policy shared with other decoders. command: command line of the process, without its argument.
    """

    def __init__(
        self,
        max_bytes: int,
        max_seconds: float,
        starts: DecoderStartPolicy | None = None,
        command: Sequence[str] | None = None,
        *,
        min_seconds: float = MIN_SECONDS,
    ) -> None:
        self._max_bytes = max_bytes
        self._min_seconds, self._max_seconds = min_seconds, max_seconds
        self._client = DecoderClient(max_bytes, max_seconds, starts or DecoderStartPolicy(), command)

    def __enter__(self) -> VoiceDecoder:
        if not _decoder_slots.acquire(timeout=WALL_SECONDS):
            raise Busy("other recordings are being decoded: try again", retry_after=5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._client.close()
        finally:
            _decoder_slots.release()

    def start(self) -> None:
        """Start the process unless it is running. Raises ComponentFailed."""
        self._client.start()

    def decode(self, recording: bytes) -> DecodedRecording:
        """Decode to 24 kHz mono, min_seconds to max_seconds long.

        Raises TooLarge, NotAudio, UndecodableAudio, Unprocessable (too short, or silent); ComponentFailed
        if the decoder does not start.
        """
        if not recording:
            raise UndecodableAudio(f"the recording is empty: send {FORMATS}")
        if len(recording) > self._max_bytes:
            limit = f"{self._max_bytes / MEBIBYTE:g} MB"
            raise TooLarge(f"the recording has {len(recording) / MEBIBYTE:.1f} MB; MAX_UPLOAD_MB is {limit}")
        container = sniff(recording[:64])
        if container is None:
            raise NotAudio(f"the file is not in a supported audio format: send {FORMATS}")
        answer = self._client.decode(recording, container)
        if answer.outcome != framing.DECODED:
            raise self._error_of(answer.outcome, answer.body.decode(errors="replace"))
        samples = np.frombuffer(answer.body, "<f4").reshape(-1, answer.channels)
        return DecodedRecording(self._validated(samples), answer.clipped)

    def _error_of(self, outcome: bytes, reason: str) -> ServiceError:
        if outcome == framing.TOO_LONG:
            return TooLarge(f"the recording is too long: {reason} (MAX_VOICE_SECONDS); send a shorter part of it")
        if outcome == framing.NO_AUDIO:
            return NotAudio(f"the recording cannot be used: {reason}; send {FORMATS} with speech in it")
        return UndecodableAudio(f"the recording cannot be decoded: {reason}; send {FORMATS}")

    def _validated(self, channels: Samples) -> Samples:
        if not np.isfinite(channels).all():
            raise UndecodableAudio("the recording contains samples that are not finite numbers; export it again")
        samples: npt.NDArray[np.float64] = channels.mean(axis=1, dtype=np.float64)
        seconds = samples.size / SAMPLE_RATE
        if seconds < self._min_seconds:
            raise Unprocessable(
                f"the recording is too short: {seconds:.2f} s; a voice needs {self._min_seconds:g} to"
                f" {self._max_seconds:g} s of speech",
                code="voice_too_short",
            )
        peak = np.abs(samples).max()
        if peak > 1:
            samples /= peak  # lossy codecs overshoot a little, float files by any amount: scale rather than clip
        if samples.std() < SILENCE_THRESHOLD:
            raise Unprocessable("the recording is silent: send one with speech in it", code="voice_silent")
        return samples.astype(np.float32)
