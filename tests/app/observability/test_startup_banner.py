from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from app.observability.startup_banner import curl_line, speak_line
from app.settings import Settings
from app.settings_loader import load_settings


def pasted(line: str, environ: dict[str, str]) -> list[str]:
    """What curl gets when a shell runs the line."""
    script = f"curl() {{ printf '%s\\n' \"$@\"; }}; {line}"
    return subprocess.run(
        ["sh", "-c", script], env=environ, capture_output=True, text=True, timeout=110, check=True
    ).stdout.split("\n")


@pytest.mark.parametrize(
    "written", ["API_KEY=k3y", "API_KEY=k3y,other", 'API_KEY="k3y, other"', "API_KEY = 'k3y'", "export API_KEY=k3y"]
)
def test_the_shell_reads_the_key_from_the_file(tmp_path: Path, written: str) -> None:
    file = tmp_path / "my env"
    file.write_text(f"# API_KEY=no\nXAPI_KEY=no\n{written}\n", encoding="utf-8")
    line = curl_line(load_settings(file), file, {})
    assert "k3y" not in line
    assert "\n" not in line
    assert "X-API-Key: k3y" in pasted(line, {"PATH": "/usr/bin:/bin"})


def test_a_key_in_the_environment_is_read_from_there(settings: Settings, tmp_path: Path) -> None:
    line = curl_line(settings, tmp_path / "none", {"API_KEY": "first-key,second-key"})
    assert "first-key" not in line
    assert "X-API-Key: first-key" in pasted(line, {"API_KEY": "first-key,second-key", "PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize(
    ("host", "address"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.0.0.7", "10.0.0.7"), ("::1", "[::1]")]
)
def test_the_address_can_be_connected_to(settings: Settings, tmp_path: Path, host: str, address: str) -> None:
    line = curl_line(settings.model_copy(update={"host": host, "port": 81}), tmp_path / "none", {})
    assert shlex.split(line)[-1].startswith(f"http://{address}:81/tts/generate?text=")


def test_the_speak_command_runs_in_the_directory_of_the_env_file(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / ".env").write_text("API_KEY=k3y\n", encoding="utf-8")
    line = speak_line(load_settings(folder / ".env"), folder / ".env", {})
    assert "k3y" not in line
    assert shlex.split(line)[:3] == ["cd", str(folder), "&&"]


def test_the_speak_command_is_the_one_beside_this_python(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line() -> list[str]:
        return shlex.split(speak_line(settings, tmp_path / "none", {"API_KEY": "first-key"}))

    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert line()[:2] == ["csm-serve", "speak"]
    (tmp_path / "csm-serve").touch()
    assert line()[:4] == [str(tmp_path / "csm-serve"), "speak", "--url", "http://127.0.0.1:8000"]
