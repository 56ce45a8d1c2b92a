"""From the bytes of a recording to samples that a voice can be made of, without trusting a single one of them.

What kind of file it is, its first bytes say; anything but the six kinds taken is refused here. Decoding
happens in another process (app/voices/decoder_process.py), under limits of memory, CPU time and wall time. What
comes back is checked again on this side. A process that does not start is told apart from a recording that it
does not survive: before the first recording it decodes a sound of ours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from ..errors import Busy, ComponentFailed, NotAudio, ServiceError, TooLarge, UndecodableAudio, Unprocessable
from ..observability.components import Report, report_nothing
from . import decoder_framing as framing

_log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1

FORMATS = "wav, mp3, flac, ogg, m4a/mp4 or webm"
MIN_SECONDS = 1.0
WALL_SECONDS = 30.0  # for one recording
START_SECONDS = 30.0  # for the start of the process; a tenth of a second is common
SILENCE_THRESHOLD = 1e-4  # of full scale: a deviation below it, -80 dB, is no voice
MEBIBYTE = 1 << 20

_SLOW_START_SECONDS = 2.0  # a start that failed after more than that is not repeated at once
_EXIT_SECONDS = 1.0  # in which a process that closed its pipe has ended
_STDERR_BYTES, _STDERR_LINES, _LINE_CHARACTERS = 8192, 6, 200  # of its standard error: kept, logged, of each line

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_decoder_slots = threading.BoundedSemaphore(2)  # decoders that one worker runs at a time: the machine has speech to make


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


class DecoderStartError(Exception):
    """Why a decoder does not start; the cause of ComponentFailed."""


class DecoderStartPolicy:
    """How the starts of decoders end: shared by all decoders of a worker, from any thread.

    A start that hung is not repeated for as long as it took, so that its callers are answered at once meanwhile.
    on_state: told of every start why it failed, or None.
    """

    def __init__(self, on_state: Report = report_nothing) -> None:
        self._on_state = on_state
        self._retry_at = 0.0

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._retry_at

    def ended(self, error: str | None, detail: str, seconds: float) -> None:
        hung = error is not None and seconds > _SLOW_START_SECONDS
        self._retry_at = time.monotonic() + seconds if hung else 0.0
        self._on_state(error, detail)


class VoiceDecoder:
    """A process that decodes recordings one after the other; a context manager, for one thread at a time.

    A fresh one for each upload; the files of a folder can share one, so that many voices start quickly.
    It starts with the first recording, and starts anew after one that it did not survive. Once a start has failed
    this one gives up: the next one tries again.
    Entering raises Busy where two others are at work and do not get done.
    max_bytes, max_seconds: what a recording may measure, packed and unpacked.
    starts: told how starts end. command: how the process is started, without its argument.
    """

    def __init__(
        self,
        max_bytes: int,
        max_seconds: float,
        starts: DecoderStartPolicy | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._starts = starts or DecoderStartPolicy()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: _StderrTail | None = None
        self._start_failed = False

    def __enter__(self) -> VoiceDecoder:
        if not _decoder_slots.acquire(timeout=WALL_SECONDS):
            raise Busy("recordings of others are being decoded: try again", retry_after=5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop(at_once=True)
        finally:
            _decoder_slots.release()

    def decode(self, recording: bytes) -> Samples:
        """float32 (samples,) at 24 kHz, in -1..1, from MIN_SECONDS to max_seconds of them.

        Raises TooLarge, NotAudio, UndecodableAudio, Unprocessable (too short, or silent); ComponentFailed
        where no decoder can be started.
        """
        if not recording:
            raise UndecodableAudio(f"the recording is empty: send {FORMATS}")
        if len(recording) > self._max_bytes:
            limit = f"{self._max_bytes / MEBIBYTE:g} MB"
            raise TooLarge(f"the recording has {len(recording) / MEBIBYTE:.1f} MB; MAX_UPLOAD_MB allows {limit}")
        kind = sniff(recording[:64])
        if kind is None:
            raise NotAudio(f"this is not an audio file that is taken: send {FORMATS}")
        outcome, channels, body = self._request(recording, kind)
        if outcome != framing.DECODED:
            raise self._error_of(outcome, body.decode(errors="replace"))
        return self._validated(np.frombuffer(body, "<f4").reshape(-1, channels))

    def _error_of(self, outcome: bytes, why: str) -> ServiceError:
        if outcome == framing.TOO_LONG:
            return TooLarge(f"the recording is too long: {why}, which is MAX_VOICE_SECONDS; send a shorter part of it")
        if outcome == framing.NO_AUDIO:
            return NotAudio(f"the recording cannot be used: {why}; send {FORMATS} with speech in it")
        return UndecodableAudio(f"the recording cannot be decoded: {why}; send {FORMATS}")

    def _validated(self, channels: Samples) -> Samples:
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
        if samples.std() < SILENCE_THRESHOLD:
            raise Unprocessable("the recording is silent: send one with speech in it", code="voice_silent")
        return samples.astype(np.float32)

    # ---- the process

    def start(self) -> None:
        """Have a process that decodes: start one unless it runs. Raises ComponentFailed."""
        if self._process is not None:
            return
        if self._start_failed or not self._starts.due:
            raise _decoder_failed()
        began = time.monotonic()
        error, detail = self._try_to_start()
        self._starts.ended(error, detail, time.monotonic() - began)
        if error is not None:
            self._start_failed = True
            raise _decoder_failed() from DecoderStartError(f"{error} [{detail}]")

    def _try_to_start(self) -> tuple[str | None, str]:
        """Why it does not start, or None; and what it wrote to its standard error."""
        try:
            process = self._spawn()
        except OSError as error:
            return str(error), ""
        late = threading.Event()
        assert process.stderr is not None
        try:
            self._stderr = _StderrTail(process.stderr)
            with _kill_after(START_SECONDS, process, late):
                self._self_test(process)
        except (EOFError, OSError, RuntimeError) as error:
            ended, lines = self._stop()
            if late.is_set():
                return f"it did not get ready within {START_SECONDS:g} seconds", " | ".join(lines)
            return (lines[-1] if lines else f"{error}; {ended}"), " | ".join((*lines, ended))
        return None, ""

    def _self_test(self, process: subprocess.Popen[bytes]) -> None:
        """Raises EOFError or OSError if it does not get ready, or does not decode a sound of ours as it should."""
        assert process.stdout is not None
        if framing.read_exactly(process.stdout, len(framing.READY)) != framing.READY:
            raise EOFError("it does not say that it is ready")
        outcome, channels, body = self._exchange(process, _TEST_WAV, "wav")
        if outcome != framing.DECODED:
            raise EOFError(f"it refuses a sound of ours: {body.decode(errors='replace')}")
        if (channels, len(body)) != (1, 4 * _TEST_SAMPLES):
            raise EOFError("it does not decode a sound of ours as it should")

    def _spawn(self) -> subprocess.Popen[bytes]:
        """A fresh interpreter: no file of ours open, none of our environment but the way to its modules."""
        command = self._command or [sys.executable, "-s", "-m", "app.voices.decoder_process"]
        process = subprocess.Popen(
            [*command, str(self._max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_PACKAGE_ROOT,
            env={"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)},
            start_new_session=True,  # a Ctrl-C at the terminal is the service's to answer
        )
        self._process = process
        return process

    def _request(self, recording: bytes, kind: str) -> tuple[bytes, int, bytes]:
        """One recording's answer. Raises UndecodableAudio where the process does not survive it, ComponentFailed."""
        self.start()
        process = self._process
        assert process is not None
        late = threading.Event()
        try:
            with _kill_after(WALL_SECONDS, process, late):
                return self._exchange(process, recording, kind)
        except (EOFError, OSError) as error:
            ended, lines = self._stop()
            why = f"it took more than {WALL_SECONDS:g} seconds" if late.is_set() else str(error)
        _log.warning("the voice decoder did not survive a recording: %s", " | ".join((why, ended, *lines)))
        self.start()  # else the recording would take the blame for a decoder that is broken
        why = "decoding it took more memory or time than any recording needs"
        raise UndecodableAudio(f"the recording cannot be decoded: {why}; export it again as wav")

    def _exchange(self, process: subprocess.Popen[bytes], recording: bytes, kind: str) -> tuple[bytes, int, bytes]:
        """A recording and its answer, whose sizes are checked: the process is not trusted either.

        Raises EOFError, OSError.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        most = int(np.ceil(self._max_seconds * framing.RATE)) * framing.MAX_CHANNELS * 4
        process.stdin.write(framing.REQUEST.pack(self._max_seconds, kind.encode(), len(recording)))
        process.stdin.write(recording)
        process.stdin.flush()
        outcome, channels, length = framing.ANSWER.unpack(framing.read_exactly(process.stdout, framing.ANSWER.size))
        decoded = outcome == framing.DECODED
        if length > most or (decoded and not (0 < channels <= framing.MAX_CHANNELS and length % (4 * channels) == 0)):
            raise EOFError("its answer makes no sense")
        return outcome, channels, framing.read_exactly(process.stdout, length)

    def _stop(self, *, at_once: bool = False) -> tuple[str, Sequence[str]]:
        """End the process. How it ended, in words, and the last lines of its standard error.

        at_once: nobody wants to know.
        """
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        if process is None:
            return "it never ran", ()
        if at_once:
            process.kill()
        for pipe in (process.stdin, process.stdout, None if stderr else process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            code = process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return _describe_exit(code), () if stderr is None else stderr.lines()


def _decoder_failed() -> ComponentFailed:
    return ComponentFailed(
        "recordings cannot be decoded here: the voice decoder of this service does not start. Its operator finds the "
        "reason in the service's log and in /health; until that is mended no recording can be used",
        code="decoder_failed",
    )


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"


@contextlib.contextmanager
def _kill_after(seconds: float, process: subprocess.Popen[bytes], late: threading.Event) -> Iterator[None]:
    """Kill a process that is not done in time. late: set then."""

    def kill() -> None:
        late.set()
        process.kill()

    clock = threading.Timer(seconds, kill)
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


class _StderrTail:
    """Reads the standard error of a process in a thread, so that it never blocks, and keeps the end of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._kept = b""
        self._reading = threading.Thread(target=self._read, args=(pipe,), name="decoder-stderr", daemon=True)
        self._reading.start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), _STDERR_BYTES):
                self._kept = (self._kept + data)[-_STDERR_BYTES:]

    def lines(self) -> Sequence[str]:
        """The last lines of a process that has ended, fit for one line of a log."""
        self._reading.join(_EXIT_SECONDS)  # it is at the end already, unless something else holds the pipe
        text = self._kept.decode(errors="replace")
        lines = ("".join(char if char.isprintable() else " " for char in line).strip() for line in text.splitlines())
        return [line[:_LINE_CHARACTERS] for line in lines if line.strip("^~ ")][-_STDERR_LINES:]


def _make_test_wav() -> bytes:
    """A wav file of _TEST_SAMPLES samples at the rate that comes back."""
    data = bytes(2 * _TEST_SAMPLES)
    rate = framing.RATE
    head = struct.pack("<4sI4s4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16)
    return head + struct.pack("<HHIIHH4sI", 1, 1, rate, 2 * rate, 2, 16, b"data", len(data)) + data


_TEST_SAMPLES = framing.RATE // 10
_TEST_WAV = _make_test_wav()
