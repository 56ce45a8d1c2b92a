"""How a command ends: its exit status, and one line that says why."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from enum import IntEnum

from ..client import ApiError, Busy, CsmError, Misconfigured, StreamCut, Unauthorized, Unavailable, Unreachable

_LONGEST_LINE = 600


class ExitStatus(IntEnum):
    """Exit statuses, as the help of the commands lists them."""

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
  0    done, whole
  1    something failed on this machine: a file, the player
  2    the command or the settings cannot be used
  3    the service cannot be reached, or what answers is not csm-serve
  4    the service refused, or failed: the key, the voice, a parameter
  5    the service is busy or not ready: try again later
  6    the speech was cut: what came of it is not whole
  130  interrupted
  141  nobody reads the output any more"""


class CommandFailed(Exception):
    """A command cannot go on, for a reason on this machine; the message says what to do."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(message)
        self.status = status


_STATUS: tuple[tuple[type[Exception], ExitStatus], ...] = (  # the first row that fits
    (Misconfigured, ExitStatus.USAGE),
    (StreamCut, ExitStatus.CUT),
    (Busy, ExitStatus.BUSY),
    (Unavailable, ExitStatus.BUSY),
    (ApiError, ExitStatus.REFUSED),
    (CsmError, ExitStatus.UNREACHABLE),
)


def run(command: Callable[[argparse.Namespace], None], parsed: argparse.Namespace) -> int:
    """Run a command to its end, whatever that is. Returns the exit status."""
    try:
        command(parsed)
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return ExitStatus.NO_READER
    except CommandFailed as error:
        return _told(str(error), error.status)
    except CsmError as error:
        return _told(_advice(error), next(status for kind, status in _STATUS if isinstance(error, kind)))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _told(f"{name}{error.strerror or error}", ExitStatus.FAILED)
    except Exception as error:
        return _told(
            f"this should not have happened, please report it: {type(error).__name__}: {error}", ExitStatus.FAILED
        )
    return ExitStatus.DONE


def one_line(text: str) -> str:
    """A text of somebody else, fit for a terminal: one line without control characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(line.split())[:_LONGEST_LINE]


def _advice(error: CsmError) -> str:
    if isinstance(error, Unauthorized):
        return f"{error}: set API_KEY, in the environment or in .env, to a key of the service"
    if isinstance(error, Unreachable):
        return f"{error} (--url names another address)"
    return str(error)


def _told(message: str, status: ExitStatus) -> int:
    print(f"csm-serve: {one_line(message)}", file=sys.stderr)
    return status


def _forget_stdout() -> None:
    """Nobody reads it; the interpreter would complain when it flushes it at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
