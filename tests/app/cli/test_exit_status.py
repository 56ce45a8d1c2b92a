from __future__ import annotations

import argparse
import re

import pytest
from csm_serve_client import (
    BadRequest,
    Busy,
    CsmError,
    Misconfigured,
    ServerFailed,
    StreamCut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)

from app.cli.exit_status import EXIT_HELP, CommandFailed, ExitStatus, run

NOTHING = argparse.Namespace()


def ended(error: BaseException) -> int:
    def command(parsed: argparse.Namespace) -> None:
        raise error

    return run(command, NOTHING)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Misconfigured("x"), 2),
        (Unreachable("x"), 3),
        (UnexpectedAnswer("x"), 3),
        (CsmError("x"), 3),
        (Unauthorized("x", status=401), 4),
        (BadRequest("x", status=400), 4),
        (ServerFailed("x", status=500), 4),
        (Busy("x", status=429), 5),
        (Unavailable("x", status=503), 5),
        (StreamCut("x"), 6),
        (CommandFailed("x"), 1),
        (CommandFailed("x", ExitStatus.USAGE), 2),
        (FileNotFoundError(2, "No such file", "out.wav"), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_each_error_has_a_status_and_a_one_line_message(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(error) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(r"csm-serve: .+\n", output.err)


def test_an_interrupt_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


def test_success_is_zero() -> None:
    assert run(lambda parsed: None, NOTHING) == 0


def test_control_characters_of_messages_are_removed(capsys: pytest.CaptureFixture[str]) -> None:
    ended(BadRequest("one\ntwo\x1b[2J\x07" + "x" * 9999, status=400))
    output = capsys.readouterr().err
    assert output.startswith("csm-serve: one two [2J xxx")
    assert len(output) < 700
    assert output.rstrip("\n").isprintable()


def test_the_help_lists_every_status() -> None:
    assert [int(each) for each in re.findall(r"^  (\d+)", EXIT_HELP, re.MULTILINE)] == [
        each.value for each in ExitStatus
    ]
