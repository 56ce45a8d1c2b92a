"""Decodes untrusted recordings to voice samples in a sandboxed process.

The container format is determined from the first bytes; all but eight formats are rejected here. Decoding runs in
another process (app/voices/decoder_process.py) with limits on memory, CPU time and wall time, and its output is
validated on this side. A self-test before the first recording distinguishes a process that does not start from a
recording that crashes it.
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
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE

from ..errors import Busy, ComponentFailed, NotAudio, ServiceError, TooLarge, UndecodableAudio, Unprocessable
from ..observability.components import Report, report_nothing
from . import decoder_framing as framing

_log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1


class DecodedRecording(NamedTuple):
    """samples: float32 (samples,) at 24 kHz, mono, in -1..1. clipped: share of the file's samples at full scale."""

    samples: Samples
    clipped: float


FORMATS = "wav, mp3, flac, ogg/opus, m4a/mp4, webm, aiff or caf"
MIN_SECONDS = 1.0
WALL_SECONDS = 30.0  # per recording
START_SECONDS = 30.0  # for the start of the process; typically a tenth of a second
SILENCE_THRESHOLD = 1e-4  # of full scale: a standard deviation below it, -80 dB, is silence
MEBIBYTE = 1 << 20

_SLOW_START_SECONDS = 2.0  # a start that fails after longer than this is not retried immediately
_EXIT_SECONDS = 1.0  # time for a process that closed its pipe to exit
_STDERR_BYTES, _STDERR_LINES, _LINE_CHARACTERS = 8192, 6, 200  # stderr: bytes kept, lines logged, length of a line

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_decoder_slots = threading.BoundedSemaphore(2)  # concurrent decoders per worker: speech generation needs the CPU


def sniff(head: bytes) -> str | None:
    """Detect the container format: a key of decoder_process.DEMUXERS, or None if it is not supported.

    head: the first 64 bytes of the file.
    """
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:8] == b"caff\0\1\0\0":  # version 1, the only one
        return "caf"
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
    """Whether `head` begins with a layer III frame header without reserved values."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bitrate not in (0, 15) and rate != 3


class DecoderStartError(Exception):
    """The reason why a decoder does not start; the cause of ComponentFailed."""


class DecoderStartPolicy:
    """Reports decoder starts and backs off after a hung one. Shared by all decoders of a worker. Thread-safe.

    A start that hung is not retried for as long as it took; meanwhile callers fail immediately.
    report: called after every start with its error, or None.
    """

    def __init__(self, report: Report = report_nothing) -> None:
        self._report = report
        self._retry_at = 0.0

    @property
    def may_start(self) -> bool:
        return time.monotonic() >= self._retry_at

    def record(self, error: str | None, detail: str, seconds: float) -> None:
        """Record a start that took `seconds`. error: None if it succeeded."""
        hung = error is not None and seconds > _SLOW_START_SECONDS
        self._retry_at = time.monotonic() + seconds if hung else 0.0
        self._report(error, detail)


class VoiceDecoder:
    """Decoder process for recordings, one at a time; a context manager, not thread-safe.

    Each upload uses a new one; the files of a directory share one, so that many voices load quickly.
    The process starts with the first recording, and is restarted after a recording that crashes it. After a failed
    start this instance does not try again; the next one does.
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
        self._starts = starts or DecoderStartPolicy()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: _StderrTail | None = None
        self._start_failed = False

    def __enter__(self) -> VoiceDecoder:
        if not _decoder_slots.acquire(timeout=WALL_SECONDS):
            raise Busy("other recordings are being decoded: try again", retry_after=5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop(kill=True)
        finally:
            _decoder_slots.release()

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
        kind = sniff(recording[:64])
        if kind is None:
            raise NotAudio(f"the file is not in a supported audio format: send {FORMATS}")
        outcome, channels, clipped, body = self._request(recording, kind)
        if outcome != framing.DECODED:
            raise self._error_of(outcome, body.decode(errors="replace"))
        return DecodedRecording(self._validated(np.frombuffer(body, "<f4").reshape(-1, channels)), clipped)

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

    # ---- the process

    def start(self) -> None:
        """Start the process unless it is running. Raises ComponentFailed."""
        if self._process is not None:
            return
        if self._start_failed or not self._starts.may_start:
            raise _decoder_failed()
        began = time.monotonic()
        error, detail = self._try_to_start()
        self._starts.record(error, detail, time.monotonic() - began)
        if error is not None:
            self._start_failed = True
            raise _decoder_failed() from DecoderStartError(f"{error} [{detail}]")

    def _try_to_start(self) -> tuple[str | None, str]:
        """Start and self-test the process. Returns (error or None, the end of its standard error)."""
        try:
            process = self._spawn()
        except OSError as error:
            return str(error), ""
        timed_out = threading.Event()
        assert process.stderr is not None
        try:
            self._stderr = _StderrTail(process.stderr)
            with _kill_after(START_SECONDS, process, timed_out):
                self._self_test(process)
        except (EOFError, OSError, RuntimeError) as error:
            exit_reason, lines = self._stop()
            if timed_out.is_set():
                return f"it was not ready within {START_SECONDS:g} seconds", " | ".join(lines)
            return (lines[-1] if lines else f"{error}; {exit_reason}"), " | ".join((*lines, exit_reason))
        return None, ""

    def _self_test(self, process: subprocess.Popen[bytes]) -> None:
        """Raises EOFError or OSError if it does not become ready, or does not decode the test sound correctly."""
        assert process.stdout is not None
        if framing.read_exactly(process.stdout, len(framing.READY)) != framing.READY:
            raise EOFError("it did not send its ready message")
        outcome, channels, _, body = self._exchange(process, _TEST_WAV, "wav")
        if outcome != framing.DECODED:
            raise EOFError(f"it rejected the test sound: {body.decode(errors='replace')}")
        if (channels, len(body)) != (1, 4 * _TEST_SAMPLES):
            raise EOFError("it decoded the test sound incorrectly")

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start a new interpreter that inherits no open files, and only PYTHONPATH from the environment."""
        command = self._command or [sys.executable, "-s", "-m", "app.voices.decoder_process"]
        process = subprocess.Popen(
            [*command, str(self._max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_PACKAGE_ROOT,
            env={"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)},
            start_new_session=True,  # only the service itself handles Ctrl-C
        )
        self._process = process
        return process

    def _request(self, recording: bytes, kind: str) -> tuple[bytes, int, float, bytes]:
        """Decode one recording. Raises UndecodableAudio if it crashes the process, ComponentFailed."""
        self.start()
        process = self._process
        assert process is not None
        timed_out = threading.Event()
        try:
            with _kill_after(WALL_SECONDS, process, timed_out):
                return self._exchange(process, recording, kind)
        except (EOFError, OSError) as error:
            exit_reason, lines = self._stop()
            reason = f"it took more than {WALL_SECONDS:g} seconds" if timed_out.is_set() else str(error)
        _log.warning("the voice decoder crashed on a recording: %s", " | ".join((reason, exit_reason, *lines)))
        self.start()  # raises if the decoder, not the recording, is broken
        reason = "decoding it takes more memory or time than any valid recording"
        raise UndecodableAudio(f"the recording cannot be decoded: {reason}; export it again as wav")

    def _exchange(
        self, process: subprocess.Popen[bytes], recording: bytes, kind: str
    ) -> tuple[bytes, int, float, bytes]:
        """Send a recording and read its answer. The answer is validated too, because the process is untrusted.

        Raises EOFError, OSError.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        max_length = int(np.ceil(self._max_seconds * framing.RATE)) * framing.MAX_CHANNELS * 4
        process.stdin.write(framing.REQUEST.pack(self._max_seconds, kind.encode(), len(recording)))
        process.stdin.write(recording)
        process.stdin.flush()
        head = framing.ANSWER.unpack(framing.read_exactly(process.stdout, framing.ANSWER.size))
        outcome, channels, clipped, length = head
        decoded = outcome == framing.DECODED
        if length > max_length or (
            decoded
            and not (0 <= clipped <= 1 and 0 < channels <= framing.MAX_CHANNELS and length % (4 * channels) == 0)
        ):
            raise EOFError("its answer is invalid")
        return outcome, channels, clipped, framing.read_exactly(process.stdout, length)

    def _stop(self, *, kill: bool = False) -> tuple[str, Sequence[str]]:
        """End the process. Returns how it ended, and the last lines of its standard error.

        kill: immediately, so that the result has no meaning.
        """
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        if process is None:
            return "it was not running", ()
        if kill:
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
        "recordings cannot be decoded: the voice decoder of this service does not start. The reason is in its log "
        "and in /health; until its operator fixes it, no recording can be used",
        code="decoder_failed",
    )


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"


@contextlib.contextmanager
def _kill_after(seconds: float, process: subprocess.Popen[bytes], timed_out: threading.Event) -> Iterator[None]:
    """Kill the process and set `timed_out` if the block takes longer than `seconds`."""

    def kill() -> None:
        timed_out.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _StderrTail:
    """Drains the standard error of a process in a thread, so that it never blocks, and keeps the last bytes."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._tail = b""
        self._reader = threading.Thread(target=self._read, args=(pipe,), name="decoder-stderr", daemon=True)
        self._reader.start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), _STDERR_BYTES):
                self._tail = (self._tail + data)[-_STDERR_BYTES:]

    def lines(self) -> Sequence[str]:
        """The last lines of a process that has ended, without control characters, for the log."""
        self._reader.join(_EXIT_SECONDS)  # returns at once, unless another process holds the pipe open
        text = self._tail.decode(errors="replace")
        lines = ("".join(char if char.isprintable() else " " for char in line).strip() for line in text.splitlines())
        return [line[:_LINE_CHARACTERS] for line in lines if line.strip("^~ ")][-_STDERR_LINES:]


def _make_test_wav() -> bytes:
    """A wav file of _TEST_SAMPLES samples at the output rate."""
    data = bytes(2 * _TEST_SAMPLES)
    rate = framing.RATE
    head = struct.pack("<4sI4s4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16)
    return head + struct.pack("<HHIIHH4sI", 1, 1, rate, 2 * rate, 2, 16, b"data", len(data)) + data


_TEST_SAMPLES = framing.RATE // 10
_TEST_WAV = _make_test_wav()
