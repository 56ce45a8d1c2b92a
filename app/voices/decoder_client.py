"""The service's side of its decoder process: starts it, tests it, and exchanges messages with it.

The process (app/voices/decoder_process.py) is not trusted: it inherits nothing, every answer is validated, and each
wait has a limit. A self-test before the first recording tells a process that does not start from a recording that
crashes it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import ComponentFailed, UndecodableAudio
from . import decoder_framing as framing
from .decoder_starts import DecoderStartError, DecoderStartPolicy

_log = logging.getLogger(__name__)

WALL_SECONDS = 30.0  # per recording
START_SECONDS = 30.0  # for the start of the process; typically a tenth of a second

_EXIT_SECONDS = 1.0  # time for a process that closed its pipe to exit
_STDERR_BYTES, _STDERR_LINES, _LINE_CHARACTERS = 8192, 6, 200  # stderr: bytes kept, lines logged, length of a line
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Answer(NamedTuple):
    """outcome: as of decoder_framing. clipped: share of the file's samples at full scale.

    body: float32 samples, interleaved, if it was decoded; else the reason.
    """

    outcome: bytes
    channels: int
    clipped: float
    body: bytes


class DecoderClient:
    """A decoder process, one recording at a time; not thread-safe.

    It starts with the first recording, and again after a recording that crashed it. After a failed start this instance
    does not try again.
    max_bytes, max_seconds: limits of a recording, encoded and decoded.
    starts: start policy shared with other decoders. command: command line of the process, without its argument.
    """

    def __init__(
        self, max_bytes: int, max_seconds: float, starts: DecoderStartPolicy, command: Sequence[str] | None
    ) -> None:
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
        self._starts = starts
        self._command = command or [sys.executable, "-s", "-m", "app.voices.decoder_process"]
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: _StderrTail | None = None
        self._start_failed = False

    def decode(self, recording: bytes, container: str) -> Answer:
        """Decode one recording. container: of decoder_process.DEMUXERS.

        Raises UndecodableAudio if it crashes the process, ComponentFailed if the process does not start.
        """
        self.start()
        process = self._process
        assert process is not None
        timed_out = threading.Event()
        try:
            with _kill_after(WALL_SECONDS, process, timed_out):
                return self._exchange(process, recording, container)
        except (EOFError, OSError) as error:
            exit_reason, lines = self._stop()
            reason = f"it took more than {WALL_SECONDS:g} seconds" if timed_out.is_set() else str(error)
        _log.warning("the voice decoder crashed on a recording: %s", " | ".join((reason, exit_reason, *lines)))
        self.start()  # raises if the decoder, not the recording, is broken
        reason = "decoding it takes more memory or time than any valid recording"
        raise UndecodableAudio(f"the recording cannot be decoded: {reason}; export it again as wav")

    def close(self) -> None:
        self._stop(kill=True)

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
        answer = self._exchange(process, _TEST_WAV, "wav")
        if answer.outcome != framing.DECODED:
            raise EOFError(f"it rejected the test sound: {answer.body.decode(errors='replace')}")
        if (answer.channels, len(answer.body)) != (1, 4 * _TEST_SAMPLES):
            raise EOFError("it decoded the test sound incorrectly")

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start a new interpreter that inherits no open files, and only PYTHONPATH from the environment."""
        process = subprocess.Popen(
            [*self._command, str(self._max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_PACKAGE_ROOT,
            env={"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)},
            start_new_session=True,  # only the service itself handles Ctrl-C
        )
        self._process = process
        return process

    def _exchange(self, process: subprocess.Popen[bytes], recording: bytes, container: str) -> Answer:
        """Send a recording and read its answer, which is validated. Raises EOFError, OSError."""
        assert process.stdin is not None
        assert process.stdout is not None
        max_length = math.ceil(self._max_seconds * framing.RATE) * framing.MAX_CHANNELS * 4
        process.stdin.write(framing.REQUEST.pack(self._max_seconds, container.encode(), len(recording)))
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
        return Answer(outcome, channels, clipped, framing.read_exactly(process.stdout, length))

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
