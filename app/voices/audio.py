"""From the bytes of a recording to samples that a voice can be made of, without trusting a single one of them.

What kind of file it is, its first bytes say; anything but the six kinds taken is refused here. Decoding
happens in another process (app/voices/decoder.py), under limits of memory, CPU time and wall time. What
comes back is checked again on this side.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from ..errors import Busy, NotAudio, ServiceError, TooLarge, Unavailable, UndecodableAudio, Unprocessable
from . import wire as wire

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1

KINDS = "wav, mp3, flac, ogg, m4a/mp4 or webm"
MIN_SECONDS = 1.0
WALL_SECONDS = 30.0  # for one recording, the start of the process included
SILENCE = 1e-4  # of full scale: a deviation below it, -80 dB, is no voice
MEBIBYTE = 1 << 20

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_at_once = threading.BoundedSemaphore(2)  # decoders that one worker runs at a time: the machine has speech to make


def sniff(head: bytes) -> str | None:
    """Which of the kinds that are taken a file begins like: "wav", "mp3", "flac", "ogg", "mp4", "webm", or None.

    head: its first 64 bytes.
    """
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in head[:64]:
        return "webm"
    if head[:3] == b"ID3" or _is_mp3_frame(head):
        return "mp3"
    return None


def _is_mp3_frame(head: bytes) -> bool:
    """Whether it begins with the header of a layer III frame, none of its fields on a reserved value."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bitrate not in (0, 15) and rate != 3


class VoiceDecoder:
    """A process that decodes recordings one after the other; a context manager, for one thread at a time.

    A fresh one for each upload; the files of a folder can share one, so that many voices start quickly.
    It starts with the first recording, and starts anew after one that it did not survive.
    Entering raises Busy where two others are at work and do not get done.
    max_bytes, max_seconds: what a recording may measure, packed and unpacked.
    """

    def __init__(self, max_bytes: int, max_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> VoiceDecoder:
        if not _at_once.acquire(timeout=WALL_SECONDS):
            raise Busy("recordings of others are being decoded: try again", retry_after=5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            _at_once.release()

    def decode(self, recording: bytes) -> Samples:
        """float32 (samples,) at 24 kHz, in -1..1, from MIN_SECONDS to max_seconds of them.

        Raises TooLarge, NotAudio, UndecodableAudio, Unprocessable (too short, or silent); Unavailable
        where no decoder can be started.
        """
        if not recording:
            raise UndecodableAudio(f"the recording is empty: send {KINDS}")
        if len(recording) > self._max_bytes:
            limit = f"{self._max_bytes / MEBIBYTE:g} MB"
            raise TooLarge(f"the recording has {len(recording) / MEBIBYTE:.1f} MB; MAX_UPLOAD_MB allows {limit}")
        kind = sniff(recording[:64])
        if kind is None:
            raise NotAudio(f"this is not an audio file that is taken: send {KINDS}")
        outcome, channels, body = self._ask(recording, kind)
        if outcome != wire.DECODED:
            raise self._refusal(outcome, body.decode(errors="replace"))
        return self._checked(np.frombuffer(body, "<f4").reshape(-1, channels))

    def _refusal(self, outcome: bytes, why: str) -> ServiceError:
        if outcome == wire.TOO_LONG:
            return TooLarge(f"the recording is too long: {why}, which is MAX_VOICE_SECONDS; send a shorter part of it")
        if outcome == wire.NO_AUDIO:
            return NotAudio(f"the recording cannot be used: {why}; send {KINDS} with speech in it")
        return UndecodableAudio(f"the recording cannot be decoded: {why}; send {KINDS}")

    def _checked(self, channels: Samples) -> Samples:
        if not np.isfinite(channels).all():
            raise UndecodableAudio("the recording holds samples that are not finite numbers; export it again")
        samples: npt.NDArray[np.float64] = channels.mean(axis=1, dtype=np.float64)
        seconds = samples.size / SAMPLE_RATE
        if seconds < MIN_SECONDS:
            raise Unprocessable(
                f"the recording is too short: {seconds:.2f} s, and a voice needs {MIN_SECONDS:g} to"
                f" {self._max_seconds:g} s of speech",
                code="voice_too_short",
            )
        peak = np.abs(samples).max()
        if peak > 1:
            samples /= peak  # lossy codecs overshoot a little, float files as they like: keep the shape
        if samples.std() < SILENCE:
            raise Unprocessable("the recording is silent: send one with speech in it", code="voice_silent")
        return samples.astype(np.float32)

    # ---- the process

    def _ask(self, recording: bytes, kind: str) -> tuple[bytes, int, bytes]:
        """One recording's answer, its sizes checked: the process is not trusted either."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        clock = threading.Timer(WALL_SECONDS, process.kill)
        clock.daemon = True
        clock.start()
        most = int(np.ceil(self._max_seconds * wire.RATE)) * wire.MOST_CHANNELS * 4
        try:
            process.stdin.write(wire.REQUEST.pack(self._max_seconds, kind.encode(), len(recording)))
            process.stdin.write(recording)
            process.stdin.flush()
            outcome, channels, length = wire.ANSWER.unpack(wire.read_exactly(process.stdout, wire.ANSWER.size))
            decoded = outcome == wire.DECODED
            if length > most or (decoded and not (0 < channels <= wire.MOST_CHANNELS and length % (4 * channels) == 0)):
                raise EOFError("the answer makes no sense")
            return outcome, channels, wire.read_exactly(process.stdout, length)
        except (EOFError, BrokenPipeError):
            self._stop()
            why = "decoding it took more memory or time than any recording needs"
            raise UndecodableAudio(f"the recording cannot be decoded: {why}; export it again as wav") from None
        finally:
            clock.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        """A fresh interpreter: no file of ours open, none of our environment but the way to its modules."""
        try:
            process = subprocess.Popen(
                [sys.executable, "-s", "-m", "app.voices.decoder", str(self._max_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=_PACKAGE_ROOT,
                env={"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)},
                start_new_session=True,  # a Ctrl-C at the terminal is the service's to answer
            )
        except OSError as error:
            raise Unavailable(f"recordings cannot be decoded now: {error.strerror}; try again") from error
        self._process = process
        assert process.stdout is not None
        clock = threading.Timer(WALL_SECONDS, process.kill)
        clock.daemon = True
        clock.start()
        try:
            wire.read_exactly(process.stdout, len(wire.READY))
        except EOFError:
            self._stop()
            raise Unavailable("recordings cannot be decoded now: the decoder does not start; try again") from None
        finally:
            clock.cancel()
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()
