from __future__ import annotations

import io

import pytest

from app.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_is_told() -> None:
    stream = io.StringIO()
    line = Progress(stream)
    line.show("half", at_once=True)
    line.clear()
    line.end("done")
    assert stream.getvalue() == ""


def test_one_line_is_rewritten_and_the_last_words_stay() -> None:
    stream = Terminal()
    line = Progress(stream)
    line.show("half")
    line.show("sooner than anybody reads")
    line.show("most", at_once=True)
    line.end("done")
    assert stream.getvalue() == "\r\x1b[Khalf\r\x1b[Kmost\r\x1b[Kdone\n"


def test_it_stays_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    Progress(stream).show("x" * 100)
    assert stream.getvalue() == "\r\x1b[K" + "x" * 19
