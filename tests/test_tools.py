from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools import need


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CSM_REQUIRE_TOOLS", raising=False)
    return tmp_path


def program(path: Path) -> str:
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_tool_is_found_by_any_of_its_names(path: Path) -> None:
    curl, chrome = program(path / "curl"), program(path / "google-chrome")
    assert need("curl") == curl
    assert need("chromium", "chromium", "google-chrome") == chrome


def test_a_missing_tool_skips_the_test(path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="curl is not on PATH"):
        need("curl")


def test_a_missing_tool_fails_the_test_if_required(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSM_REQUIRE_TOOLS", "git curl")
    with pytest.raises(pytest.fail.Exception, match="CSM_REQUIRE_TOOLS"):
        need("curl")
    with pytest.raises(pytest.skip.Exception):
        need("chromium")
