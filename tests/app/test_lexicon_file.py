from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from app.lexicon_file import LexiconFile
from engine import Lexicon


def applied(file: LexiconFile, text: str, own: Lexicon | None = None) -> str:
    lexicon = file.with_entries(own)
    return text if lexicon is None else lexicon.apply(text)


def test_without_a_file_only_the_own_entries_count() -> None:
    file = LexiconFile(None)
    assert file.with_entries(None) is None
    assert applied(file, "a b", Lexicon({"a": "x"})) == "x b"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "lexicon"
    path.write_text("\ufeffa = x\n", encoding="utf-8")
    file = LexiconFile(path)
    assert applied(file, "a b") == "x b"
    assert file.with_entries(None) is file.with_entries(None)
    assert applied(file, "a b", Lexicon({"b": "y"})) == "x y"
    replacement = tmp_path / "new"
    replacement.write_text("a = z\n", encoding="utf-8")
    os.replace(replacement, path)
    assert applied(file, "a b") == "z b"


def test_a_file_that_cannot_be_read_is_reported_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lexicon"
    path.write_text("a = x\n", encoding="utf-8")
    file = LexiconFile(path)
    assert applied(file, "a") == "x"
    for broken in (b"a = x\nno sign\n", b"\xff\xff = x\n"):
        path.write_bytes(broken)
        caplog.clear()
        assert [applied(file, "a") for _ in range(3)] == ["x"] * 3
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
    path.unlink()
    caplog.clear()
    assert [applied(file, "a") for _ in range(3)] == ["x"] * 3
    assert len(caplog.records) == 1
    path.write_text("a = z\n", encoding="utf-8")
    assert applied(file, "a") == "z"
