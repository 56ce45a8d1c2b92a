from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import main as cli
from app.settings import Settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOST", "PORT"):  # serve sets them for good
        monkeypatch.setenv(name, "")


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert [name for name in Settings.model_fields if name.upper() not in shown] == []


def test_serve_reports_invalid_settings_before_starting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--port", "http"]) == 2
    output = capsys.readouterr().err
    assert "API_KEY is not set" in output
    assert "PORT is 'http'" in output


def test_serve_replaces_itself_by_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: became.append(command))
    monkeypatch.setenv("API_KEY", "key")
    cli.main(["serve", "--host", "127.0.0.1", "--port", "9001"])
    ((_, *command),) = became
    assert command[-1] == "app.main:app"
    assert Path(command[command.index("--config") + 1]).is_file()
    assert (os.environ["HOST"], os.environ["PORT"]) == ("127.0.0.1", "9001")


@pytest.mark.parametrize("package", ["pydantic", "httpx"])
def test_a_missing_package_is_one_line(package: str) -> None:
    program = f"import runpy, sys; sys.modules['{package}'] = None; runpy.run_module('app.cli.main', {{}}, '__main__')"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("csm-serve cannot start: ")
    assert package in line
    assert "make install" in line
