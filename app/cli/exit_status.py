"""Exit statuses of the commands, and error messages of one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from enum import IntEnum

from csm_serve_client import (
    ApiError,
    Busy,
    ConversationError,
    CsmError,
    Misconfigured,
    StreamCut,
    Unauthorized,
    Unavailable,
    Unreachable,
)

_MAX_LINE = 600  # characters


class ExitStatus(IntEnum):
    """Exit statuses, as listed in the commands' help."""

    DONE = 0
    FAILED = 1
    USAGE = 2  # also argparse's own
    UNREACHABLE = 3
    REFUSED = 4
    BUSY = 5
    CUT = 6
    INTERRUPTED = 130  # 128 + SIGINT
    NO_READER = 141  # 128 + SIGPIPE


EXIT_HELP = """exit status:
  0    success
  1    local error: a file, the player
  2    invalid command line or settings
  3    the service cannot be reached, or the server is not csm-serve
  4    the service rejected the request or failed: key, voice, parameter
  5    the service is busy or not ready: try again later
  6    the stream was aborted: the audio is incomplete
  130  interrupted
  141  the reader of the output closed the pipe"""


class CommandFailed(Exception):
    """A command fails for a local reason; the message says what to do."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(message)
        self.status = status


_STATUS: tuple[tuple[type[Exception], ExitStatus], ...] = (  # the first match applies
    (Misconfigured, ExitStatus.USAGE),
    (StreamCut, ExitStatus.CUT),
    (Busy, ExitStatus.BUSY),
    (Unavailable, ExitStatus.BUSY),
    (ApiError, ExitStatus.REFUSED),
    (ConversationError, ExitStatus.REFUSED),
    (CsmError, ExitStatus.UNREACHABLE),
)


def run(command: Callable[[argparse.Namespace], None], parsed: argparse.Namespace) -> int:
    """Run a command and report its error, if any. Returns the exit status."""
    try:
        command(parsed)
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return ExitStatus.NO_READER
    except CommandFailed as error:
        return _fail(str(error), error.status)
    except CsmError as error:
        return _fail(_advice(error), next(status for kind, status in _STATUS if isinstance(error, kind)))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}", ExitStatus.FAILED)
    except Exception as error:
        return _fail(f"unexpected error, please report it: {type(error).__name__}: {error}", ExitStatus.FAILED)
    return ExitStatus.DONE


def one_line(text: str) -> str:
    """Sanitize external text for a terminal: one line without control characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(line.split())[:_MAX_LINE]


def _advice(error: CsmError) -> str:
    if isinstance(error, Unauthorized):
        return f"{error}: set API_KEY, in the environment or in .env, to a key of the service"
    if isinstance(error, Unreachable):
        return f"{error} (--url sets another address)"
    return str(error)


def _fail(message: str, status: ExitStatus) -> int:
    print(f"csm-serve: {one_line(message)}", file=sys.stderr)
    return status


def _discard_stdout() -> None:
    """Redirect stdout to /dev/null, so that the interpreter's final flush does not raise BrokenPipeError."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
