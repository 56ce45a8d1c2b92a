from __future__ import annotations

import io

import pytest

from app.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_shows_progress() -> None:
    stream = io.StringIO()
    line = Progress(stream)
    line.show("half", force=True)
    line.clear()
    line.end("done")
    assert stream.getvalue() == ""


def test_one_line_is_rewritten_and_the_last_stays() -> None:
    stream = Terminal()
    line = Progress(stream)
    line.show("half")
    line.show("within the interval")
    line.show("most", force=True)
    line.end("done")
    assert stream.getvalue() == "\r\x1b[Khalf\r\x1b[Kmost\r\x1b[Kdone\n"


def test_the_line_is_truncated_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    Progress(stream).show("x" * 100)
    assert stream.getvalue() == "\r\x1b[K" + "x" * 19
